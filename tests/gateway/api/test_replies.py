"""Real replies against the models by which the OpenAPI document describes them: nothing missing, nothing beyond."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator
from dataclasses import replace
from typing import Any

import httpx
import pytest
from pydantic import BaseModel

from gateway.api.schema.chat import ChatCompletionChunkReply, ChatCompletionReply
from gateway.api.schema.completions import CompletionReply
from gateway.api.schema.embeddings import EmbeddingListReply
from gateway.api.schema.models import ModelListReply, ModelReply
from gateway.api.schema.reply import Deleted, ErrorReply
from gateway.api.schema.responses import ItemListReply, ResponseEvent, ResponseReply
from gateway.api.schema.swarm import HealthReply
from gateway.generation.completion import ServedModel
from gateway.generation.sampling import SamplingParams
from gateway.generation.tokenizer import TextTokenizer
from gateway.generation.tokens import OnOpen, Token
from shared.errors import HopFailed
from shared.types import PeerId
from tests.gateway.api.conftest import MODEL, Site
from tests.gateway.api.reciting import Reciting
from tests.gateway.local_engine import LocalEngine
from tests.tiny_models import CHAT_TEMPLATE, byte_tokenizer

CHAT, COMPLETION, RESPONSE, EMBEDDING = (
    f"/v1/{path}" for path in ("chat/completions", "completions", "responses", "embeddings")
)
FUNCTION: dict[str, Any] = {"name": "clock", "parameters": {"type": "object", "properties": {}}}
TALK = {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 6, "seed": 1}
CALLING = {**TALK, "tools": [{"type": "function", "function": FUNCTION}], "max_tokens": 400}
TEXT = {"prompt": "Hi", "max_tokens": 6, "seed": 1}
ASKED = {"input": "Hi", "max_output_tokens": 6, "seed": 1, "store": False}
SCHEMA = {"type": "object", "properties": {"a": {"type": "boolean"}}, "required": ["a"], "additionalProperties": False}
ITEMS: list[Any] = [
    {"role": "system", "content": "Be short."},
    {"type": "reasoning", "summary": [{"type": "summary_text", "text": "Look it up."}], "encrypted_content": "x"},
    {"type": "function_call", "call_id": "call_1", "name": "clock", "arguments": "{}"},
    {"type": "function_call_output", "call_id": "call_1", "output": [{"type": "input_text", "text": "Noon."}]},
    {"role": "assistant", "content": [{"type": "refusal", "refusal": "No."}]},
    {"role": "user", "content": "Thanks."},
]
RECITED = '<think>\nHm.\n</think>\n\nLook:\n<tool_call>\n{"name": "clock", "arguments": {}}\n</tool_call>'

WHOLE: list[tuple[str, type[BaseModel], dict[str, Any]]] = [
    (CHAT, ChatCompletionReply, TALK),
    (CHAT, ChatCompletionReply, {**TALK, "n": 2, "logprobs": True, "top_logprobs": 2, "return_token_ids": True}),
    (CHAT, ChatCompletionReply, {**CALLING, "tool_choice": "required", "parallel_tool_calls": False}),
    (COMPLETION, CompletionReply, TEXT),
    (COMPLETION, CompletionReply, {**TEXT, "echo": True, "logprobs": 2, "n": 2, "return_token_ids": True}),
    (COMPLETION, CompletionReply, {**TEXT, "prompt": ["a", "b"], "best_of": 2, "return_tokens_as_token_ids": True}),
    (EMBEDDING, EmbeddingListReply, {"input": ["a", "b"]}),
    (EMBEDDING, EmbeddingListReply, {"input": [1, 2], "encoding_format": "base64"}),
    (RESPONSE, ResponseReply, ASKED),
    (RESPONSE, ResponseReply, {**ASKED, "input": ITEMS, "instructions": "Hm.", "metadata": {"a": "b"}}),
    (RESPONSE, ResponseReply, {**ASKED, "include": ["message.output_text.logprobs"], "top_logprobs": 2}),
    (RESPONSE, ResponseReply, {**ASKED, "text": {"format": {"type": "json_schema", "name": "a", "schema": SCHEMA}}}),
    (RESPONSE, ResponseReply, {**ASKED, "tools": [{"type": "function", **FUNCTION}, {"type": "web_search"}]}),
    (RESPONSE, ResponseReply, {**ASKED, "reasoning": {"effort": "none"}}),
]
STREAMED: list[tuple[str, type[BaseModel], dict[str, Any]]] = [
    (CHAT, ChatCompletionChunkReply, {**TALK, "n": 2, "stream_options": {"include_usage": True}}),
    (CHAT, ChatCompletionChunkReply, {**TALK, "logprobs": True, "top_logprobs": 2, "return_token_ids": True}),
    (COMPLETION, CompletionReply, {**TEXT, "echo": True, "logprobs": 2, "stream_options": {"include_usage": True}}),
    (RESPONSE, ResponseEvent, {**ASKED, "include": ["message.output_text.logprobs"], "top_logprobs": 2}),
]


@pytest.fixture
def model(model: ServedModel) -> ServedModel:
    """With room for tools: its tokens are bytes."""
    return replace(model, context_length=2048)


@pytest.fixture
def agent(model: ServedModel, site: Site) -> None:
    """The model thinks, says something and calls a tool."""
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = CHAT_TEMPLATE + "{# <think> #}"
    thinking = replace(model, tokenizer=TextTokenizer(tokenizer, model.end_ids))
    site.serve(thinking, Reciting(thinking, RECITED))


class Breaking(LocalEngine):
    """Fails after four tokens, as a chain does that cannot be repaired."""

    async def generate(
        self, prompt: list[int], params: SamplingParams, on_open: OnOpen = lambda numerics: None
    ) -> AsyncGenerator[Token, None]:
        async for token in super().generate(prompt, replace(params, max_tokens=4), on_open):
            yield token
        raise HopFailed(PeerId("12D3KooWSomebody"), "gone", "it has left")


def check(model: type[BaseModel], text: str) -> Any:
    """The reply, which is what `model` says: each field of its type, and none that is not there."""
    reply = json.loads(text)
    assert model.model_validate_json(text, strict=True).model_dump(mode="json", by_alias=True, exclude_unset=True) == (
        reply
    )
    return reply


async def events(http: httpx.AsyncClient, path: str, body: dict[str, Any]) -> list[str]:
    """The data of all events of a stream, but for the word that ends it."""
    response = await http.post(path, json={"model": MODEL, "stream": True, **body})
    assert response.status_code == 200, response.text
    data = [line.removeprefix("data: ") for line in response.text.splitlines() if line.startswith("data: ")]
    return [each for each in data if each != "[DONE]"]


@pytest.mark.parametrize(("path", "reply", "body"), WHOLE)
async def test_whole_answers_are_as_described(
    http: httpx.AsyncClient, path: str, reply: type[BaseModel], body: dict[str, Any]
):
    response = await http.post(path, json={"model": MODEL, **body})
    assert response.status_code == 200, response.text
    check(reply, response.text)


@pytest.mark.parametrize(("path", "event", "body"), STREAMED)
async def test_events_are_as_described(
    http: httpx.AsyncClient, path: str, event: type[BaseModel], body: dict[str, Any]
):
    data = await events(http, path, body)
    assert len(data) > 3
    for each in data:
        check(event, each)


@pytest.mark.usefixtures("agent")
async def test_thinking_and_calls_in_chat_completions_are_as_described(http: httpx.AsyncClient):
    answer = (await http.post(CHAT, json={"model": MODEL, **CALLING})).text
    message = check(ChatCompletionReply, answer)["choices"][0]["message"]
    assert message.keys() >= {"reasoning_content", "tool_calls"}
    deltas = [
        check(ChatCompletionChunkReply, each)["choices"][0]["delta"] for each in await events(http, CHAT, CALLING)
    ]
    assert {name for delta in deltas for name in delta} >= {"reasoning_content", "content", "tool_calls"}


@pytest.mark.usefixtures("agent")
async def test_thinking_and_calls_in_responses_are_as_described(http: httpx.AsyncClient):
    asked = {**ASKED, "max_output_tokens": 400, "tools": [{"type": "function", **FUNCTION}]}
    answer = (await http.post(RESPONSE, json={"model": MODEL, **asked})).text
    kinds = [item["type"] for item in check(ResponseReply, answer)["output"]]
    assert kinds == ["reasoning", "message", "function_call"]
    told = {check(ResponseEvent, each)["type"] for each in await events(http, RESPONSE, asked)}
    assert len(told) == 13  # of all kinds, but for those of answers that are cut or fail


async def test_a_failure_midway_is_as_described(
    http: httpx.AsyncClient, site: Site, model: ServedModel, engine: LocalEngine
):
    site.serve(model, Breaking(engine.model))
    *_, failed, error = [check(ResponseEvent, each) for each in await events(http, RESPONSE, ASKED)]
    assert (failed["type"], error["type"]) == ("response.failed", "error")
    check(ErrorReply, (await events(http, CHAT, TALK))[-1])


async def test_what_is_stored_is_as_described(http: httpx.AsyncClient):
    asked = {"model": MODEL, "max_output_tokens": 2, "store": True}
    first = (await http.post(RESPONSE, json={**asked, "input": ITEMS})).json()
    second = (await http.post(RESPONSE, json={**asked, "input": "So?", "previous_response_id": first["id"]})).json()
    path = f"{RESPONSE}/{second['id']}"
    check(ResponseReply, (await http.get(path)).text)
    listed = check(ItemListReply, (await http.get(f"{path}/input_items")).text)
    assert len(listed["data"]) == len(ITEMS) + len(first["output"]) + 1
    check(Deleted, (await http.delete(path)).text)


async def test_models_and_health_are_as_described(http: httpx.AsyncClient, site: Site):
    check(ModelListReply, (await http.get("/v1/models")).text)
    check(ModelReply, (await http.get(f"/v1/models/{MODEL}")).text)
    check(HealthReply, (await http.get("/health")).text)
    site.board.covered = 1
    waiting = await http.get("/health")
    assert waiting.status_code == 503
    check(HealthReply, waiting.text)


@pytest.mark.parametrize("asked", [{}, {"model": "none"}, {"model": MODEL, "n": 0}, {"model": MODEL, "suffix": "x"}])
async def test_refusals_are_as_described(http: httpx.AsyncClient, asked: dict[str, Any]):
    response = await http.post(COMPLETION, json=asked)
    assert 400 <= response.status_code < 500
    check(ErrorReply, response.text)


@pytest.mark.parametrize("path", ["/v1/nothing", "/v1/models/none", "/v1/responses/none"])
async def test_what_is_not_there_is_told_as_described(http: httpx.AsyncClient, path: str):
    response = await http.get(path)
    assert response.status_code == 404
    check(ErrorReply, response.text)
