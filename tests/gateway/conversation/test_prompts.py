"""What a model is told: its own chat template, with tools, calls and results in the form that it knows."""

from __future__ import annotations

import json
from typing import Any

import pytest

from gateway.conversation.ask import Ask, ChatMessage, Tool
from gateway.conversation.dialect import dialect_of
from gateway.conversation.messages import as_template_takes
from gateway.conversation.prepared import prepare
from gateway.generation.completion import ServedModel
from gateway.generation.tokenizer import TextTokenizer
from shared.errors import InvalidRequest
from tests.gateway.conversation import families
from tests.gateway.conversation.families import prompt_text, speaking
from tests.gateway.conversation.serving import served
from tests.tiny_models import CHAT_TEMPLATE

USER = {"role": "user", "content": "Weather in Paris?"}
WEATHER = Tool("weather", "Tells the weather", {"type": "object", "properties": {"city": {"type": "string"}}})


def call(id: str, arguments: str) -> dict[str, Any]:
    return {"id": id, "type": "function", "function": {"name": "weather", "arguments": arguments}}


ASKED = {"role": "assistant", "content": None, "tool_calls": [call("call_1", '{"city":"Paris"}')]}
HERMES_CALL = '<tool_call>\n{"name": "weather", "arguments": {"city": "Paris"}}\n</tool_call>'
TOLD = {"role": "tool", "tool_call_id": "call_1", "content": "sunny"}


async def text_of(model: ServedModel, *messages: ChatMessage, tools: tuple[Tool, ...] = (WEATHER,), **more: Any) -> str:
    return prompt_text(model.tokenizer, (await prepare(model, Ask(messages, tools, **more))).prompt)


@pytest.mark.parametrize(
    ("template", "form", "said"),
    [
        (families.QWEN3, "hermes", f"{HERMES_CALL}<|im_end|>"),
        (families.LLAMA31, "llama3", '{"name": "weather", "parameters": {"city": "Paris"}}<|eot_id|>'),
        (families.MISTRAL_V3, "mistral", '[TOOL_CALLS] [{"name": "weather", "arguments": {"city": "Paris"}, "id": "'),
        (families.MISTRAL_V11, "mistral_named", '[TOOL_CALLS]weather[ARGS]{"city": "Paris"}<|im_end|>'),
        (
            families.HARMONY,
            "harmony",
            'to=functions.weather<|channel|>commentary json<|message|>{"city": "Paris"}<|call|>',
        ),
        (CHAT_TEMPLATE, "hermes", f"{HERMES_CALL}<|im_end|>"),
        (families.TURNS, "hermes", f"{HERMES_CALL}<end_of_turn>"),
        (families.QWEN3_CODER, "hermes", f"{HERMES_CALL}<|im_end|>"),
    ],
)
async def test_tools_calls_and_results_are_told_in_the_form_of_the_model(template: str, form: str, said: str):
    model = served(speaking(template))
    assert dialect_of(model.tokenizer).format.name == form
    text = await text_of(model, USER, ASKED, TOLD)
    assert said in text
    assert all(each in text for each in ("Weather in Paris?", "Tells the weather", "sunny"))


async def test_a_template_without_tools_is_told_of_them_in_the_system_message():
    text = await text_of(served(speaking(CHAT_TEMPLATE)), {"role": "developer", "content": "Be brief."}, USER)
    system = text.partition("<|im_end|>")[0]
    assert system.startswith("<|im_start|>system\nBe brief.\n\n# Tools")
    assert json.dumps({"name": "weather", "description": "Tells the weather"})[:-1] in system


async def test_a_template_that_wants_turns_gets_results_and_the_next_question_as_one():
    text = await text_of(served(speaking(families.TURNS)), USER, ASKED, TOLD, TOLD, USER)
    answer = "<tool_response>\nsunny\n</tool_response>"
    assert f"<start_of_turn>user\n{answer}\n{answer}\nWeather in Paris?<end_of_turn>" in text
    assert text.startswith("<start_of_turn>user\n# Tools")


async def test_a_template_that_takes_one_call_a_message_gets_each_with_its_result():
    both = {**ASKED, "tool_calls": [call("a", '{"city": "Paris"}'), call("b", '{"city": "Rome"}')]}
    results = [{**TOLD, "tool_call_id": id, "content": said} for id, said in (("a", "sunny"), ("b", "rain"))]
    text = await text_of(served(speaking(families.LLAMA31)), USER, both, *results)
    assert text.index("sunny") < text.index("Rome") < text.index("rain")


@pytest.mark.parametrize("template", [families.LLAMA31, families.MISTRAL_V3, families.HARMONY])
async def test_results_answer_the_calls_of_their_own_turn_where_ids_repeat(template: str):
    first = {**ASKED, "tool_calls": [call("call_0", '{"city": "Paris"}'), call("call_1", '{"city": "Rome"}')]}
    then = {**ASKED, "tool_calls": [call("call_0", '{"city": "Oslo"}')]}
    told = [("call_0", "sunny"), ("call_1", "rain")]
    results = [{**TOLD, "tool_call_id": id, "content": said} for id, said in told]
    last = {**TOLD, "tool_call_id": "call_0", "content": "snow"}
    text = await text_of(served(speaking(template)), USER, first, *results, then, last)
    assert text.index("sunny") < text.index("rain") < text.index("Oslo") < text.index("snow")
    assert [text.count(said) for said in ("sunny", "rain", "snow")] == [1, 1, 1]


def test_a_result_is_named_after_the_last_call_of_its_id():
    dialect = dialect_of(speaking(families.LLAMA31))
    other = {"id": "call_1", "type": "function", "function": {"name": "clock", "arguments": "{}"}}
    again = {**ASKED, "tool_calls": [other]}
    taken = as_template_takes([USER, ASKED, TOLD, again, TOLD], [WEATHER], dialect)
    assert [message.get("name") for message in taken] == [None, None, "weather", None, "clock"]


async def test_results_that_answer_no_call_stay_behind_those_that_do():
    both = {**ASKED, "tool_calls": [call("a", "{}"), call("b", "{}")]}
    results = [{**TOLD, "tool_call_id": id, "content": f"of {id}"} for id in ("other", "b")]
    text = await text_of(served(speaking(families.LLAMA31)), USER, both, *results)
    assert text.index("of b") < text.index("of other")


async def test_a_broken_call_does_not_end_a_conversation_whose_template_walks_through_arguments():
    broken = {**ASKED, "tool_calls": [call("call_1", '{"city": "Par')]}
    model = served(speaking(families.WALKING))
    assert '<argument=arguments>\n{"city": "Par\n' in await text_of(model, USER, broken, TOLD)
    assert "<argument=city>\nParis\n" in await text_of(model, USER, ASKED)


async def test_ids_of_calls_are_made_short_where_the_template_wants_them_so():
    model = served(speaking(families.MISTRAL_V3))
    text = await text_of(model, USER, ASKED, TOLD)
    short = text.partition('"id": "')[2][:9]
    assert short.isalnum()
    assert f'"call_id": "{short}"' in text
    assert dialect_of(model.tokenizer).short_ids


@pytest.mark.parametrize(
    "arguments", ["not JSON", "[1]", '{"a": NaN}', '"\\ud800"', "[" * 100_000, '{"a":' * 90 + "1" + "}" * 90]
)
async def test_arguments_that_are_no_object_are_told_as_they_stand(arguments: str):  # fmt: skip
    called = {**ASKED, "tool_calls": [call("call_1", arguments)]}
    assert arguments in await text_of(served(speaking(families.QWEN3)), USER, called, TOLD)


async def test_empty_arguments_are_an_empty_object():
    called = {**ASKED, "tool_calls": [call("call_1", "")]}
    assert '"arguments": {}' in await text_of(served(speaking(families.QWEN3)), USER, called, TOLD)


async def test_special_tokens_typed_anywhere_are_ordinary_text():
    typed, model = "<|im_end|>", served(speaking(families.QWEN3))
    tool = Tool("weather", typed, {"type": "object", "properties": {typed: {"enum": [typed]}}})
    called = {**ASKED, "reasoning_content": typed, "tool_calls": [call(typed, json.dumps({typed: [typed]}))]}
    messages = (USER, called, {**TOLD, "content": typed, "name": typed})
    typed_nowhere = await prepare(model, Ask((USER, ASKED, TOLD), [WEATHER]))
    ids = (await prepare(model, Ask(messages, [tool], template_kwargs={"documents": [{"text": typed}]}))).prompt
    end = model.tokenizer.token_id(typed)
    assert ids.count(end) == typed_nowhere.prompt.count(end)  # pyright: ignore[reportArgumentType]
    assert prompt_text(model.tokenizer, ids).count(typed) == ids.count(end) + 7  # pyright: ignore[reportArgumentType]


async def test_past_thinking_is_told_to_a_template_that_wants_it():
    thought = {"role": "assistant", "content": "4", "reasoning_content": "2 and 2"}
    text = await text_of(served(speaking(families.QWEN3)), USER, thought, USER)
    assert "<think>\n2 and 2\n</think>\n\n4<|im_end|>" in text


async def test_template_kwargs_reach_the_template():
    model = served(speaking(families.QWEN3))
    assert (await text_of(model, USER, template_kwargs={"enable_thinking": False})).endswith("</think>\n\n")
    assert (await text_of(model, USER)).endswith("assistant\n")


async def test_without_a_choice_tools_are_not_told():
    assert "Tells the weather" not in await text_of(served(speaking(families.QWEN3)), USER, tool_choice="none")


@pytest.mark.parametrize(
    ("variables", "reason"),
    [
        ({"messages": []}, "may not set 'messages'"),
        ({"tools": []}, "may not set 'tools'"),
        ({"tokenize": True}, "may not set 'tokenize'"),
        ({"add_generation_prompt": False}, "may not set 'add_generation_prompt'"),
        ({"chat_template": "x"}, "may not set 'chat_template'"),
        ({"bos_token": "x"}, "may not set 'bos_token'"),
        ({"x": "y" * 70_000}, "at most are taken"),
        ({str(number): 1 for number in range(65)}, "more than 64 names"),
        ({"documents": 5}, "does not take"),
    ],
)
async def test_kwargs_that_a_template_may_not_be_given_are_refused(variables: dict[str, Any], reason: str):
    with pytest.raises(InvalidRequest, match=reason):
        await text_of(served(speaking(families.QWEN3)), USER, template_kwargs=variables)


async def test_what_a_template_raises_is_a_refusal():
    with pytest.raises(InvalidRequest, match="must alternate") as refused:
        await text_of(served(speaking(families.TURNS)), USER, USER, tools=())
    assert refused.value.code == "chat_template_error"


def test_templates_that_think_are_known():
    for template, thinks in ((families.QWEN3, True), (families.DEEPSEEK_R1, True), (CHAT_TEMPLATE, False)):
        tokenizer: TextTokenizer = speaking(template)
        assert (dialect_of(tokenizer).thinking is not None) == thinks
