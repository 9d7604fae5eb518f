"""What a chat completion request is understood to ask."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from openai.types.chat import completion_create_params

from gateway.api.chat.request import ChatRequest
from gateway.api.sampling_fields import room_for
from gateway.conversation.ask import Ask, JsonObject, JsonSchema, NamedTool
from gateway.generation.completion import ServedModel
from gateway.generation.tokenizer import TextTokenizer
from shared.errors import InvalidRequest
from tests.gateway.tokenizers import fast, llama_like

USER: Any = {"role": "user", "content": "Hi"}
WEATHER: Any = {"type": "function", "function": {"name": "weather", "parameters": {"properties": {}}, "strict": True}}
TIME: Any = {"type": "function", "function": {"name": "time", "description": "What time it is"}}


def ask(model: ServedModel, *messages: Any, **fields: Any) -> Ask:
    body = {"model": "m", "messages": list(messages) or [USER], **fields}
    ChatRequest.refuse_unsupported(body)
    return ChatRequest.model_validate(body).ask(model)


def with_template(model: ServedModel, template: str) -> ServedModel:
    return replace(model, tokenizer=TextTokenizer(fast(llama_like(), template), frozenset()))


def test_every_field_that_openai_has_is_done_refused_or_ignored():
    names = set(completion_create_params.CompletionCreateParamsBase.__annotations__) | {"stream"}
    done, refused, ignored = set(ChatRequest.model_fields), set(ChatRequest.refused), set(ChatRequest.ignored)
    assert names <= done | refused | ignored
    assert len(done | refused | ignored) == len(done) + len(refused) + len(ignored)
    assert set(ChatRequest.replaced) <= refused


def test_messages_are_said_as_templates_know_them(model: ServedModel):
    call = {"id": "c1", "type": "function", "function": {"name": "weather", "arguments": '{"a": 1}'}}
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    asked = ask(
        model,
        {"role": "developer", "content": "Be brief."},
        {"role": "user", "content": parts, "name": "Zoë"},
        {"role": "assistant", "content": None, "tool_calls": [call], "reasoning_content": "Hm."},
        {"role": "tool", "content": parts, "tool_call_id": "c1"},
        {"role": "assistant", "content": [{"type": "refusal", "refusal": "No."}], "tool_calls": None, "audio": None},
        {"role": "assistant", "content": None, "refusal": "No!"},
        {"role": "assistant", "content": None, "reasoning_content": "Hm."},
    )
    assert asked.messages == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "a\nb", "name": "Zoë"},
        {"role": "assistant", "content": None, "tool_calls": [call], "reasoning_content": "Hm."},
        {"role": "tool", "content": "a\nb", "tool_call_id": "c1"},
        {"role": "assistant", "content": "No."},
        {"role": "assistant", "content": "No!"},
        {"role": "assistant", "content": "", "reasoning_content": "Hm."},
    ]


def test_tools_are_functions_of_an_object(model: ServedModel):
    weather, time = ask(model, tools=[WEATHER, TIME]).tools
    assert (weather.name, weather.description, weather.strict) == ("weather", None, True)
    assert weather.parameters == {"type": "object", "properties": {}}
    assert (time.description, time.strict) == ("What time it is", False)
    assert time.parameters == {"type": "object", "properties": {}, "additionalProperties": False}


@pytest.mark.parametrize(
    ("choice", "tools", "expected"),
    [
        (None, ["weather", "time"], "auto"),
        ("none", ["weather", "time"], "none"),
        ("required", ["weather", "time"], "required"),
        ({"type": "function", "function": {"name": "time"}}, ["weather", "time"], NamedTool("time")),
        ({"type": "allowed_tools", "allowed_tools": {"mode": "auto", "tools": [TIME]}}, ["time"], "auto"),
        ({"type": "allowed_tools", "allowed_tools": {"mode": "required", "tools": [TIME]}}, ["time"], "required"),
    ],
)
def test_a_tool_choice_says_what_may_be_called(model: ServedModel, choice: Any, tools: list[str], expected: Any):
    asked = ask(model, tools=[WEATHER, TIME], tool_choice=choice)
    assert [tool.name for tool in asked.tools] == tools
    assert asked.tool_choice == expected


def test_formats_are_schemas_with_the_field_that_holds_them(model: ServedModel):
    assert ask(model).format is ask(model, response_format={"type": "text"}).format is None
    assert ask(model, response_format={"type": "json_object"}).format == JsonObject()
    schema = {"type": "object"}
    named = {"type": "json_schema", "json_schema": {"name": "a-b_1", "schema": schema, "strict": False}}
    assert ask(model, response_format=named).format == JsonSchema(schema, "response_format.json_schema.schema")
    assert ask(model, guided_json=schema).format == JsonSchema(schema, "guided_json")
    assert ask(model, parallel_tool_calls=False).parallel_tool_calls is False
    assert ask(model, parallel_tool_calls=None).parallel_tool_calls is True


@pytest.mark.parametrize(("limit", "room"), [(None, 8990), (100, 100), (9000, 8990)])
def test_an_answer_may_go_to_the_end_of_the_context(model: ServedModel, limit: int | None, room: int):
    long = replace(model, context_length=9000)
    assert room_for(long, 10, limit, "messages") == room
    with pytest.raises(InvalidRequest, match="9000"):
        room_for(long, 9000, limit, "messages")


@pytest.mark.parametrize(
    ("template", "effort", "told"),
    [
        ("{{ reasoning_effort }}", "high", {"reasoning_effort": "high"}),
        ("{% if enable_thinking %}{% endif %}", "none", {"enable_thinking": False}),
        ("{% generation %}{% if thinking %}{% endif %}{% endgeneration %}", "low", {"thinking": True}),
        ("{% set thinking = 1 %}{{ thinking }}", "none", {}),
    ],
)
def test_effort_is_told_in_the_templates_own_words(model: ServedModel, template: str, effort: str, told: Any):
    asked = ask(with_template(model, template), reasoning_effort=effort, chat_template_kwargs={"other": 1})
    assert asked.template_kwargs == {"other": 1, **told}


@pytest.mark.parametrize(
    ("template", "kwargs"), [("no thinking", {}), ("{{ enable_thinking }}", {"enable_thinking": False})]
)
def test_effort_that_cannot_be_told_is_refused(model: ServedModel, template: str, kwargs: Any):
    with pytest.raises(InvalidRequest) as refused:
        ask(with_template(model, template), reasoning_effort="low", chat_template_kwargs=kwargs)
    assert refused.value.param == "reasoning_effort"
