"""Tools in chat completions: calls that a model has to make, those that it chooses to make, and their results."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import httpx
import jsonschema
import pytest
from openai import AsyncOpenAI
from openai.types.chat import ChatCompletionMessage

from gateway.generation.completion import ServedModel
from tests.gateway.api.conftest import MODEL, Site
from tests.gateway.api.reciting import Reciting

UNITS = {"type": "string", "enum": ["celsius", "fahrenheit"]}
SCHEMA: Any = {
    "type": "object",
    "properties": {"unit": UNITS, "exact": {"type": "boolean"}},
    "required": ["unit", "exact"],
    "additionalProperties": False,
}
WEATHER: Any = {"type": "function", "function": {"name": "weather", "parameters": SCHEMA}}
CLOCK: Any = {"type": "function", "function": {"name": "clock"}}
USER: Any = {"role": "user", "content": "Hi"}
ASKED: dict[str, Any] = {"model": MODEL, "messages": [USER], "tools": [WEATHER, CLOCK], "seed": 3, "max_tokens": 400}
CALL = '<tool_call>\n{"name": "weather", "arguments": {"unit": "celsius", "exact": true}}\n</tool_call>'


@pytest.fixture
def model(model: ServedModel) -> ServedModel:
    """One to which tools can be described: its tokens are bytes."""
    return replace(model, context_length=4096)


def named(name: str) -> Any:
    return {"type": "function", "function": {"name": name}}


def check_calls(message: ChatCompletionMessage) -> None:
    """They are of the tools, and keep to their schemas."""
    assert message.tool_calls
    for call in message.tool_calls:
        assert call.type == "function"
        assert call.id.startswith("call_")
        arguments = json.loads(call.function.arguments)
        jsonschema.validate(arguments, SCHEMA if call.function.name == "weather" else {"maxProperties": 0})
    assert len({call.id for call in message.tool_calls}) == len(message.tool_calls)


async def joined(openai: AsyncOpenAI, **asked: Any) -> Any:
    """The completion that a stream comes to, by OpenAI's helper."""
    async with openai.chat.completions.stream(**asked) as stream:
        async for _ in stream:
            pass
        return stream.current_completion_snapshot


async def chunks_of(http: httpx.AsyncClient, **asked: Any) -> list[dict[str, Any]]:
    response = await http.post("/v1/chat/completions", json={**ASKED, "stream": True, **asked})
    *lines, done = [line.removeprefix("data: ") for line in response.text.splitlines() if line]
    assert done == "[DONE]", response.text
    return [json.loads(line) for line in lines]


@pytest.mark.parametrize("choice", ["required", named("weather"), named("clock")])
async def test_a_call_that_has_to_be_made_is_made_and_is_valid(openai: AsyncOpenAI, choice: Any):
    asked = {**ASKED, "tool_choice": choice, "parallel_tool_calls": False}
    answer = await openai.chat.completions.create(**asked)
    message = answer.choices[0].message
    assert answer.choices[0].finish_reason == "tool_calls"
    assert message.content is None
    check_calls(message)
    assert message.tool_calls
    assert len(message.tool_calls) == 1
    if choice != "required":
        assert message.tool_calls[0].to_dict()["function"]["name"] == choice["function"]["name"]  # pyright: ignore[reportIndexIssue]


async def test_a_stream_of_calls_joins_to_the_same(openai: AsyncOpenAI):
    asked = {**ASKED, "tool_choice": "required", "parallel_tool_calls": False, "n": 2}
    whole = await openai.chat.completions.create(**asked)
    snapshot = await joined(openai, **asked)
    for one, other in zip(whole.choices, snapshot.choices, strict=True):
        assert other.finish_reason == "tool_calls"
        check_calls(other.message)
        functions = [[call.to_dict()["function"] for call in each.message.tool_calls or ()] for each in (one, other)]
        assert {key: functions[1][0][key] for key in ("name", "arguments")} == functions[0][0]  # pyright: ignore[reportArgumentType, reportIndexIssue, reportCallIssue]


async def test_deltas_name_a_call_once_and_its_index_always(site: Site, http: httpx.AsyncClient, model: ServedModel):
    site.serve(model, Reciting(model, f"Let me see.\n{CALL}\n{CALL}"))
    chunks = [chunk["choices"][0] for chunk in await chunks_of(http)]
    deltas = [call for chunk in chunks for call in chunk["delta"].get("tool_calls", [])]
    begun = [call for call in deltas if "id" in call]
    assert [(call["index"], call["type"], call["function"]["name"]) for call in begun] == [
        (0, "function", "weather"),
        (1, "function", "weather"),
    ]
    for index in (0, 1):
        arguments = "".join(call["function"]["arguments"] for call in deltas if call["index"] == index)
        assert json.loads(arguments) == {"unit": "celsius", "exact": True}
    assert len(deltas) > 10
    assert all("name" not in call["function"] for call in deltas if "id" not in call)
    assert "".join(chunk["delta"].get("content") or "" for chunk in chunks).strip() == "Let me see."
    assert [chunk["finish_reason"] for chunk in chunks if chunk["finish_reason"]] == ["tool_calls"]


async def test_calls_are_the_models_own_choice_by_default(site: Site, openai: AsyncOpenAI, model: ServedModel):
    site.serve(model, Reciting(model, f"Let me see.\n{CALL}"))
    message = (await openai.chat.completions.create(**ASKED)).choices[0].message
    check_calls(message)
    assert message.content is not None
    assert message.content.strip() == "Let me see."
    none = (await openai.chat.completions.create(**{**ASKED, "tool_choice": "none"})).choices[0]
    assert none.message.tool_calls is None
    assert (none.finish_reason, none.message.content) == ("stop", f"Let me see.\n{CALL}")


@pytest.mark.parametrize("stream", [False, True])
async def test_an_answer_is_over_after_the_one_call_that_it_may_make(
    site: Site, http: httpx.AsyncClient, openai: AsyncOpenAI, model: ServedModel, stream: bool
):
    site.serve(model, engine := Reciting(model, CALL * 20))
    asked: dict[str, Any] = {**ASKED, "parallel_tool_calls": False, "n": 2, "max_tokens": 3000}
    answer = await joined(openai, **asked) if stream else await openai.chat.completions.create(**asked)
    assert [len(choice.message.tool_calls or ()) for choice in answer.choices] == [1, 1]
    assert [choice.finish_reason for choice in answer.choices] == ["tool_calls", "tool_calls"]
    assert engine.made < 2 * 2 * len(CALL)
    assert engine.running == 0
    assert 'outcome="ok"' in (await http.get("/metrics")).text


@pytest.mark.parametrize("choice", ["auto", "required"])
async def test_stop_strings_do_not_cut_calls(site: Site, openai: AsyncOpenAI, model: ServedModel, choice: Any):
    site.serve(model, engine := Reciting(model, f"{CALL}\nSo. And more." * 3))
    answer = await openai.chat.completions.create(**{**ASKED, "tool_choice": choice}, stop=["\n", "o."])
    check_calls(answer.choices[0].message)
    assert answer.choices[0].message.content == "S"
    assert engine.made < 2 * len(CALL)


async def test_a_call_that_the_model_breaks_off_is_no_whole_one(site: Site, openai: AsyncOpenAI, model: ServedModel):
    site.serve(model, Reciting(model, CALL[: CALL.index("celsius") + 3]))
    assert (await openai.chat.completions.create(**ASKED)).choices[0].finish_reason == "stop"


async def test_a_call_that_is_cut_by_the_length_says_so(openai: AsyncOpenAI):
    asked = {**ASKED, "tool_choice": named("weather"), "max_tokens": 5}
    answer = await openai.chat.completions.create(**asked)
    assert answer.choices[0].finish_reason == "length"


async def test_results_go_into_the_conversation(openai: AsyncOpenAI):
    first = await openai.chat.completions.create(**ASKED, tool_choice="required", parallel_tool_calls=False)
    message = first.choices[0].message
    results: list[Any] = [
        {"role": "tool", "tool_call_id": call.id, "content": "20 degrees"} for call in message.tool_calls or ()
    ]
    second = await openai.chat.completions.create(**{**ASKED, "messages": [USER, message, *results], "max_tokens": 5})
    assert first.usage is not None
    assert second.usage is not None
    assert second.usage.prompt_tokens > first.usage.prompt_tokens + len("20 degrees")


async def test_a_schema_that_cannot_be_kept_to_is_refused_by_its_field(http: httpx.AsyncClient):
    parameters = {"properties": {"a": {"$ref": "http://x"}}}
    tool = {"type": "function", "function": {"name": "f", "parameters": parameters, "strict": True}}
    response = await http.post("/v1/chat/completions", json={**ASKED, "tools": [tool], "tool_choice": "required"})
    assert response.status_code == 400
    assert response.json()["error"]["param"].startswith("tools")


async def test_a_tool_that_cannot_be_kept_to_is_told_by_its_place_among_all(http: httpx.AsyncClient):
    parameters = {"properties": {"a": {"$ref": "http://x"}}}
    tool = {"type": "function", "function": {"name": "f", "parameters": parameters, "strict": True}}
    allowed = {"mode": "required", "tools": [named("f")]}
    choice = {"type": "allowed_tools", "allowed_tools": allowed}
    response = await http.post("/v1/chat/completions", json={**ASKED, "tools": [CLOCK, tool], "tool_choice": choice})
    assert response.json()["error"]["param"].startswith("tools[1]")
