"""An agent's loop over responses with the real `openai` package: calls, their outputs, and what is said of tools."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
from jsonschema import validate
from openai import AsyncOpenAI
from openai.types.responses import Response, ResponseFunctionToolCall

from gateway.api.responses.conversation import messages_of
from gateway.api.responses.items import checked
from gateway.api.responses.prompt import prompt_of
from gateway.api.responses.request import ResponsesRequest
from gateway.api.responses.tools import toolbox
from gateway.generation.completion import ServedModel
from gateway.generation.tokenizer import TextTokenizer
from tests.gateway.api.conftest import MODEL, Site
from tests.gateway.api.reciting import Reciting
from tests.gateway.conversation import families
from tests.gateway.conversation.families import speaking
from tests.gateway.conversation.serving import served
from tests.gateway.local_engine import LocalEngine
from tests.tiny_models import make_tiny_model

CONTEXT = 2048

ARGUMENTS: dict[str, Any] = {
    "type": "object",
    "properties": {"city": {"enum": ["Rome", "Oslo"]}, "days": {"enum": [1, 2]}},
    "required": ["city", "days"],
    "additionalProperties": False,
}
WEATHER: dict[str, Any] = {"type": "function", "name": "weather", "description": "Tell it.", "parameters": ARGUMENTS}
TIME: dict[str, Any] = {**WEATHER, "name": "time"}
CODEX: dict[str, Any] = {
    "model": MODEL,
    "instructions": "You are an agent.",
    "tools": [{**WEATHER, "strict": False}, {"type": "web_search"}, {"type": "custom", "name": "apply_patch"}],
    "parallel_tool_calls": False,
    "reasoning": {"effort": "medium", "summary": "auto"},
    "include": ["reasoning.encrypted_content"],
    "prompt_cache_key": "9f2c",
    "max_output_tokens": 120,
    "seed": 1,
}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_model(tmp_path_factory.mktemp("checkpoint"), blocks=2, context=CONTEXT)


@pytest.fixture
def model(checkpoint: Path) -> ServedModel:
    """With room for tools, which this tokenizer takes by the letter."""
    tokenizer = TextTokenizer.load(checkpoint)
    return ServedModel(MODEL, 1_700_000_000, tokenizer, LocalEngine.load(checkpoint), CONTEXT, tokenizer.end_ids)


async def asked(openai: AsyncOpenAI, stream: bool, **body: Any) -> Response:
    """A response, as an agent gets it: by itself, or by the last of a stream's events."""
    extra = {"seed": body.pop("seed", 1)}
    if not stream:
        return await openai.responses.create(**body, extra_body=extra)
    events = [event async for event in await openai.responses.create(**body, extra_body=extra, stream=True)]
    done = [event.item for event in events if event.type == "response.output_item.done"]
    last = events[-1]
    assert last.type == "response.completed" or last.type == "response.incomplete"
    assert last.response.output == done
    return last.response


def the_call(response: Response) -> ResponseFunctionToolCall:
    (call,) = [item for item in response.output if item.type == "function_call"]
    assert (call.name, call.status) == ("weather", "completed")
    validate(json.loads(call.arguments), ARGUMENTS)
    return call


@pytest.mark.parametrize("stream", [False, True])
async def test_an_agent_that_lets_the_gateway_remember(openai: AsyncOpenAI, stream: bool):
    first = await asked(openai, stream, **CODEX, input="Weather?", tool_choice="required")
    assert first.status == "completed"
    call = the_call(first)
    output: Any = {"type": "function_call_output", "call_id": call.call_id, "output": "Rain."}
    second = await asked(openai, stream, **CODEX, input=[output], previous_response_id=first.id, tool_choice="none")
    assert [item.type for item in second.output] == ["message"]
    assert second.output_text
    assert second.usage is not None
    assert first.usage is not None
    assert second.usage.input_tokens > 20


@pytest.mark.parametrize("stream", [False, True])
async def test_an_agent_that_remembers_itself(openai: AsyncOpenAI, stream: bool):
    codex: dict[str, Any] = {**CODEX, "store": False}
    items: list[Any] = [{"type": "message", "role": "user", "content": [{"type": "input_text", "text": "Weather?"}]}]
    first = await asked(openai, stream, **codex, input=items, tool_choice="required")
    items += [item.to_dict() for item in first.output]
    items.insert(1, {"type": "reasoning", "summary": [], "content": None, "encrypted_content": None})
    items.append({"type": "function_call_output", "call_id": the_call(first).call_id, "output": "Rain."})
    second = await asked(openai, stream, **codex, input=items, tool_choice="none")
    stored = await asked(openai, stream, **CODEX, input=items[:1], tool_choice="required")
    remembered = await asked(
        openai,
        stream,
        **CODEX,
        input=[{**items[-1], "call_id": the_call(stored).call_id}],
        previous_response_id=stored.id,
        tool_choice="none",
    )
    assert second.output_text
    assert second.usage is not None
    assert remembered.usage is not None
    assert second.usage.input_tokens == remembered.usage.input_tokens


async def test_what_is_said_of_tools_is_what_was_done(openai: AsyncOpenAI):
    open_schema = {"type": "object", "properties": {"x": {"not": {"type": "string"}}}}
    tools: list[Any] = [WEATHER, {**TIME, "strict": False}, {"type": "web_search"}]
    response = await openai.responses.create(model=MODEL, input="Hi", tools=tools, max_output_tokens=2)
    assert [(tool.name, tool.strict) for tool in response.tools if tool.type == "function"] == [
        ("weather", True),
        ("time", False),
    ]
    assert len(response.tools) == 2
    loose: list[Any] = [{**WEATHER, "parameters": open_schema}]
    response = await openai.responses.create(model=MODEL, input="Hi", tools=loose, max_output_tokens=2)
    assert [tool.strict for tool in response.tools if tool.type == "function"] == [False]


async def test_a_strict_tool_whose_schema_cannot_be_kept_to_is_refused(http: httpx.AsyncClient):
    parameters = {"type": "object", "properties": {"x": {"not": {"type": "string"}}}}
    tools = [{"type": "web_search"}, {**WEATHER, "parameters": parameters, "strict": True}]
    answer = await http.post("/v1/responses", json={"model": MODEL, "input": "Hi", "tools": tools})
    error = answer.json()["error"]
    assert (answer.status_code, error["param"][:8]) == (400, "tools[1]")
    assert "tools[1]" in error["message"]


CHOICES: dict[str, Any] = {
    "named": {"type": "function", "name": "weather"},
    "allowed": {"type": "allowed_tools", "mode": "required", "tools": [{"type": "function", "name": "weather"}]},
}


@pytest.mark.parametrize("choice", CHOICES)
async def test_the_tool_that_is_chosen_is_called(openai: AsyncOpenAI, choice: str):
    asked_for: dict[str, Any] = {**CODEX, "tools": [TIME, WEATHER], "tool_choice": CHOICES[choice]}
    for seed in range(3):
        response = await asked(openai, False, **{**asked_for, "seed": seed}, input="Hi")
        the_call(response)
        assert response.to_dict()["tool_choice"] == CHOICES[choice]


@pytest.mark.parametrize("stream", [False, True])
async def test_a_text_keeps_to_its_schema(openai: AsyncOpenAI, stream: bool):
    text: Any = {"format": {"type": "json_schema", "name": "place", "schema": ARGUMENTS, "strict": True}}
    response = await asked(openai, stream, model=MODEL, input="Where?", text=text)
    assert response.status == "completed"
    validate(json.loads(response.output_text), ARGUMENTS)
    assert response.text is not None
    assert response.text.to_dict() == {**text, "verbosity": "medium"}


CALL = '<tool_call>\n{"name": "weather", "arguments": {"city": "Rome", "days": 1}}'


@pytest.mark.parametrize(
    ("text", "more", "ends"),
    [
        (CALL[: CALL.index("Rome")], {}, ("completed", "incomplete")),
        (CALL, {"max_output_tokens": len(CALL)}, ("incomplete", "completed")),
        (f"{CALL}</tool_call>", {}, ("completed", "completed")),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
async def test_a_call_is_whole_if_its_arguments_are(
    site: Site, openai: AsyncOpenAI, model: ServedModel, stream: bool, text: str, more: Any, ends: tuple[str, str]
):
    site.serve(model, Reciting(model, text))
    response = await asked(openai, stream, model=MODEL, input="Hi", tools=[{**WEATHER, "strict": False}], **more)
    (call,) = response.output
    assert (response.status, call.type) == (ends[0], "function_call")
    assert call.to_dict()["status"] == ends[1]


@pytest.mark.parametrize(("template", "strict"), [(families.QWEN3, True), (families.LLAMA31, False)])
async def test_tools_are_strict_by_default_but_where_that_would_forbid_texts(template: str, strict: bool):
    request = ResponsesRequest.model_validate({"model": MODEL, "input": "Hi", "tools": [WEATHER]})
    messages = messages_of(checked(request.input), None)
    prompt = await prompt_of(served(speaking(template)), request, toolbox(request.tools or (), "auto"), messages)
    assert prompt.strict == strict
    assert (prompt.prepared.grammar is not None) == strict


async def test_the_probabilities_of_a_text_are_those_of_its_own_tokens(
    site: Site, openai: AsyncOpenAI, model: ServedModel
):
    model = replace(model, tokenizer=speaking(families.QWEN3))
    text = "<think>\nHm.\n</think>\n\nHello there."
    site.shelf.models[MODEL] = replace(model, engine=Reciting(model, text))
    response = await openai.responses.create(model=MODEL, input="Hi", include=["message.output_text.logprobs"])
    _, message = response.output
    assert message.type == "message"
    (part,) = message.content
    assert part.type == "output_text"
    assert part.text == "".join(each.token for each in part.logprobs or ()) == "Hello there."
