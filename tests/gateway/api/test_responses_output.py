"""The items of an answer and their events, from the parts that a model's text consists of."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import Any

import pytest
from openai.types.responses import ResponseOutputItem, ResponseStreamEvent
from pydantic import TypeAdapter

from gateway.api.responses.items import ItemIds
from gateway.api.responses.output import Output
from gateway.conversation.parts import Content, Part, Reasoning, ToolCallArguments, ToolCallBegins

THOUGHT: list[Part] = [Reasoning("Look"), Reasoning(" it up.")]
CALLS: list[Part] = [
    ToolCallBegins(0, "call_1", "look"),
    ToolCallArguments(0, '{"a"'),
    ToolCallArguments(0, ": 1}"),
    ToolCallBegins(1, "call_2", "look"),
    ToolCallArguments(1, "{}"),
]


def told(
    output: Output, parts: Sequence[Part], status: str = "completed", broken: bool = False
) -> list[dict[str, Any]]:
    """All events, each part come by itself, as OpenAI's package knows them."""
    events = [event for part in parts for event in output.add([part], [])] + output.end(status, broken)
    known = TypeAdapter(ResponseStreamEvent)
    for number, event in enumerate(events):
        known.validate_python({**event, "sequence_number": number})
    TypeAdapter(list[ResponseOutputItem]).validate_python(output.items)
    return events


def names(events: Sequence[dict[str, Any]]) -> list[str]:
    return [name.removeprefix("response.") for name, _ in groupby(event["type"] for event in events)]


def test_thinking_calls_and_text_become_items_in_their_order():
    output = Output(ItemIds())
    told(output, [*THOUGHT, Content("Wait."), *CALLS])
    thought, message, first, second = output.items
    assert thought["content"] == [{"type": "reasoning_text", "text": "Look it up."}]
    assert message["content"][0]["text"] == "Wait."
    assert (first["call_id"], first["name"], first["arguments"]) == ("call_1", "look", '{"a": 1}')
    assert (second["call_id"], second["arguments"]) == ("call_2", "{}")
    assert {item["status"] for item in output.items} == {"completed"}
    assert len({item["id"] for item in output.items}) == 4


def test_the_events_of_thinking_come_in_openais_order():
    events = told(Output(ItemIds()), [*THOUGHT, Content("So.")])
    assert names(events)[:6] == [
        "output_item.added",
        "content_part.added",
        "reasoning_text.delta",
        "reasoning_text.done",
        "content_part.done",
        "output_item.done",
    ]
    assert [event["output_index"] for event in events] == sorted(event["output_index"] for event in events)
    assert events[0]["item"]["content"] == []


def test_the_events_of_calls_come_in_openais_order():
    events = told(Output(ItemIds()), CALLS)
    of_one = ["added", "delta", "done", "done"]
    kinds = [event["type"].rsplit(".")[-1] for event in events]
    assert [kind for kind, _ in groupby(kinds[:5])] == ["added", "delta", "done"]
    assert kinds == ["added", "delta", "delta", "done", "done", *of_one]
    assert events[0]["item"]["arguments"] == ""
    assert (events[3]["name"], events[3]["arguments"]) == ("look", '{"a": 1}')
    assert events[4]["item"]["status"] == "completed"


def test_what_is_cut_is_incomplete_and_what_was_whole_is_not():
    output = Output(ItemIds())
    told(output, [*THOUGHT, Content("So")], "incomplete")
    assert [item["status"] for item in output.items] == ["completed", "incomplete"]


@pytest.mark.parametrize("status", ["completed", "incomplete"])
def test_a_call_is_whole_unless_its_arguments_are_broken_off(status: str):
    for broken, last in ((False, "completed"), (True, "incomplete")):
        output = Output(ItemIds())
        told(output, CALLS[:4], status, broken)
        assert [item["status"] for item in output.items] == ["completed", last]


def test_an_answer_of_thinking_alone_says_an_empty_text():
    output = Output(ItemIds())
    events = told(output, THOUGHT)
    assert [item["type"] for item in output.items] == ["reasoning", "message"]
    assert output.items[1]["content"][0]["text"] == ""
    assert events[-1]["item"] == output.items[1]


def test_probabilities_go_to_the_text():
    output = Output(ItemIds())
    output.add([Reasoning("a"), Content("b")], [{"token": "b"}])
    events = output.add([Content("c")], [{"token": "c"}])
    output.end("completed")
    assert events[0]["logprobs"] == [{"token": "c"}]
    assert output.items[1]["content"][0]["logprobs"] == [{"token": "b"}, {"token": "c"}]
