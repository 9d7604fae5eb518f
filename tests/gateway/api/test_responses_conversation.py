"""From items to the messages of a chat template."""

from __future__ import annotations

from typing import Any

from gateway.api.responses.conversation import cuts, kept_from, messages_of
from gateway.api.responses.items import ItemIds, checked, response_of, text_message


def call(number: int) -> dict[str, Any]:
    return {"type": "function_call", "call_id": f"call_{number}", "name": f"look_{number}", "arguments": "{}"}


def output(number: int) -> dict[str, Any]:
    return {"type": "function_call_output", "call_id": f"call_{number}", "output": f"seen {number}"}


def thought(text: str) -> dict[str, Any]:
    return {"type": "reasoning", "summary": [], "content": [{"type": "reasoning_text", "text": text}]}


def test_a_turn_of_an_assistant_is_one_message():
    said = text_message("Wait.", "assistant")
    items = checked([text_message("Hi"), thought("Hm."), said, call(1), call(2), output(2), output(1)])
    user, assistant, second, first = messages_of(items, None)
    assert user == {"role": "user", "content": "Hi"}
    assert (assistant["reasoning_content"], assistant["content"]) == ("Hm.", "Wait.")
    assert [each["function"]["name"] for each in assistant["tool_calls"]] == ["look_1", "look_2"]
    assert (second["tool_call_id"], second["name"], second["content"]) == ("call_2", "look_2", "seen 2")
    assert first["tool_call_id"] == "call_1"


def test_results_follow_their_calls_whatever_was_said_between():
    items = checked([call(1), text_message("Wait.", "assistant"), output(1)])
    assistant, tool = messages_of(items, None)
    assert len(assistant["tool_calls"]) == 1
    assert "Wait." in assistant["content"]
    assert tool["role"] == "tool"


def test_two_turns_stay_two_messages():
    said = [text_message("a", "assistant"), text_message("b", "assistant"), thought("c"), call(1)]
    assert [message.get("content") for message in messages_of(checked(said), None)] == ["a", "b", None]


def test_thinking_that_cannot_be_read_is_left_out():
    items = checked([text_message("Hi"), {"type": "reasoning", "summary": [], "encrypted_content": "gAAA"}])
    assert messages_of(items, None) == [{"role": "user", "content": "Hi"}]


def test_system_messages_at_the_beginning_become_one():
    items = checked([text_message("a", "developer"), text_message("b"), text_message("c", "system")])
    assert [(each["role"], each["content"]) for each in messages_of(items, "Be brief.")] == [
        ("system", "Be brief.\n\na"),
        ("user", "b"),
        ("system", "c"),
    ]


def test_a_conversation_is_cut_before_users_and_then_before_calls():
    items = checked([text_message("a"), call(1), output(1), text_message("b"), call(2), output(2), call(3), output(3)])
    messages = messages_of(items, "Be brief.")
    assert [messages[place]["role"] for place in cuts(messages)] == ["user", "user", "assistant", "assistant"]
    kept = kept_from(messages, cuts(messages)[-1])
    assert [message["role"] for message in kept] == ["system", "assistant", "tool"]
    assert kept_from(messages, cuts(messages)[0]) == messages


def test_an_items_id_tells_its_response():
    ids = ItemIds()
    made = [ids.new(kind) for kind in ("message", "function_call", "reasoning")]
    assert len(set(made)) == 3
    assert {response_of(id) for id in made} == {ids.response}
