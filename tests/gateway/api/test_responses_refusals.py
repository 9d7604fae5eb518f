"""What a response cannot be asked for: a 400 that names the field, and what is taken without effect."""

from __future__ import annotations

from typing import Any

import httpx
from openai.types.responses.response_create_params import (
    ResponseCreateParamsNonStreaming,
    ResponseCreateParamsStreaming,
)

from gateway.api.responses.request import ResponsesRequest
from tests.gateway.api.conftest import MODEL

ASKED: dict[str, Any] = {"model": MODEL, "input": "Hi", "max_output_tokens": 2}
USER: dict[str, Any] = {"role": "user", "content": "Hi"}
FUNCTION: dict[str, Any] = {"type": "function", "name": "look", "parameters": {"type": "object"}, "strict": False}
CALL: dict[str, Any] = {"type": "function_call", "call_id": "call_1", "name": "look", "arguments": "{}"}


async def refusal(http: httpx.AsyncClient, body: dict[str, Any]) -> dict[str, Any]:
    answer = await http.post("/v1/responses", json={**ASKED, **body})
    assert answer.status_code == 400, answer.text
    return answer.json()["error"]


REFUSED: dict[str, Any] = {
    "access_programs": {"cyber": "daybreak_red"},
    "background": True,
    "context_management": [{"type": "compaction"}],
    "conversation": "conv_1",
    "moderation": {"model": "omni"},
    "n": 2,
    "prompt": {"id": "pmpt_1"},
    "response_format": {"type": "json_object"},
    "service_tier": "priority",
    "stop": ["x"],
    "text.verbosity": "low",
    "reasoning.mode": "pro",
    "reasoning.context": "all_turns",
    "prompt_cache_options.prewarm": True,
}


async def test_what_is_not_built_is_refused_by_name(http: httpx.AsyncClient):
    for field, value in REFUSED.items():
        outer, _, inner = field.partition(".")
        error = await refusal(http, {outer: {inner: value} if inner else value})
        assert (error["param"], error["code"]) == (field, "unsupported_parameter")


INVALID: dict[str, dict[str, Any]] = {
    "input": {"input": []},
    "input[0].type": {"input": [{"type": "web_search_call", "id": "ws_1"}]},
    "input[1].role": {"input": [USER, {"role": "tool", "content": "x"}]},
    "input[0].content": {"input": [{"role": "user", "content": 5}]},
    "input[0].content[0].type": {"input": [{"role": "user", "content": [{"type": "input_image", "image_url": "x"}]}]},
    "input[0].content[1].type": {
        "input": [{"role": "user", "content": [{"type": "input_text", "text": "a"}, {"type": "input_file"}]}]
    },
    "input[0].content[0].text": {"input": [{"role": "user", "content": [{"type": "input_text"}]}]},
    "input[0].arguments": {"input": [{**CALL, "arguments": {}}]},
    "input[1].output[0].type": {
        "input": [CALL, {"type": "function_call_output", "call_id": "call_1", "output": [{"type": "input_image"}]}]
    },
    "include[0]": {"include": ["file_search_call.results"]},
    "max_output_tokens": {"max_output_tokens": 0},
    "metadata": {"metadata": {str(number): "x" for number in range(17)}},
    "metadata.a": {"metadata": {"a": "x" * 513}},
    "temperature": {"temperature": 3},
    "text.format": {"text": {"format": {"type": "json_schema", "name": "x"}}},
    "tools[0].type": {"tools": [{"name": "look"}]},
    "tools[1].name": {"tools": [FUNCTION, {**FUNCTION, "name": "a b"}]},
    "tools": {"tools": [FUNCTION, FUNCTION]},
    "tool_choice": {"tool_choice": "required", "tools": [{"type": "web_search"}]},
    "tool_choice.type": {"tool_choice": {"type": "web_search"}, "tools": [{"type": "web_search"}, FUNCTION]},
    "tool_choice.name": {"tool_choice": {"type": "function", "name": "other"}, "tools": [FUNCTION]},
    "tool_choice.tools[0].type": {
        "tool_choice": {"type": "allowed_tools", "mode": "auto", "tools": [{"type": "mcp"}]},
        "tools": [FUNCTION],
    },
    "top_logprobs": {"top_logprobs": 21},
    "truncation": {"truncation": "sometimes"},
}


async def test_what_is_wrong_is_told_by_its_place(http: httpx.AsyncClient):
    for param, body in INVALID.items():
        error = await refusal(http, body)
        assert (error["param"], error["type"]) == (param, "invalid_request_error")
        assert param in error["message"]


async def test_a_choice_that_is_neither_word_nor_object_is_told_by_its_field(http: httpx.AsyncClient):
    error = await refusal(http, {"tool_choice": 3, "tools": [FUNCTION]})
    assert error["param"] == "tool_choice"


async def test_no_item_is_told_twice(http: httpx.AsyncClient):
    first = (await http.post("/v1/responses", json={**ASKED, "input": [{**USER, "id": "msg_1"}]})).json()
    said = first["output"][0]
    chained = {"previous_response_id": first["id"]}
    for body in (
        {"input": [USER, {**USER, "id": "msg_1"}], **chained},
        {"input": [USER, said], **chained},
        {"input": [USER, {"type": "item_reference", "id": said["id"]}], **chained},
        {"input": [{**USER, "id": "msg_2"}, {**USER, "id": "msg_2"}]},
        {"input": [said, {"type": "item_reference", "id": said["id"]}]},
    ):
        assert (await refusal(http, body))["param"] == "input[1].id"


async def test_an_output_without_its_call_is_refused(http: httpx.AsyncClient):
    orphan = {"type": "function_call_output", "call_id": "call_2", "output": "x"}
    error = await refusal(http, {"input": [USER, CALL, orphan]})
    assert error["param"] == "input"
    assert "call_2" in error["message"]


async def test_what_has_moved_is_told_where(http: httpx.AsyncClient):
    error = await refusal(http, {"max_tokens": 5})
    assert "max_output_tokens" in error["message"]


async def test_what_codex_always_sends_is_taken(http: httpx.AsyncClient):
    codex = {
        "include": ["reasoning.encrypted_content"],
        "parallel_tool_calls": False,
        "prompt_cache_key": "9f2c",
        "reasoning": {"effort": "medium", "summary": "auto"},
        "store": False,
        "tools": [{"type": "web_search", "external_web_access": False}, {"type": "custom", "name": "patch"}],
    }
    answer = await http.post("/v1/responses", json={**ASKED, **codex})
    assert answer.status_code == 200, answer.text
    assert answer.json()["tools"] == []  # those it could not call
    assert answer.json()["reasoning"]["effort"] is None  # this model cannot be told


def test_every_field_of_openais_is_done_refused_or_ignored():
    theirs = set(ResponseCreateParamsNonStreaming.__annotations__) | set(ResponseCreateParamsStreaming.__annotations__)
    done, refused, ignored = (
        {name.partition(".")[0] for name in names}
        for names in (ResponsesRequest.model_fields, ResponsesRequest.refused, ResponsesRequest.ignored)
    )
    assert len(theirs) > 30
    assert theirs <= done | refused | ignored
    assert not set(ResponsesRequest.model_fields) & (set(ResponsesRequest.refused) | set(ResponsesRequest.ignored))
