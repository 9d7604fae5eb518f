"""Requests that cannot be served: each its status, and an error of OpenAI's shape that says what is wrong."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from typing import Any

import httpx
import openai as sdk
import pytest
from openai import AsyncOpenAI

from gateway.generation.completion import ServedModel
from gateway.generation.sampling import SamplingParams
from gateway.generation.tokenizer import TextTokenizer
from gateway.generation.tokens import OnOpen, Token
from shared.errors import DeadlinePassed, HopFailed, OutOfCache, QueueFull, QueueTimeout
from shared.types import BlockRange, PeerId
from tests.gateway.api.conftest import MODEL, Site
from tests.gateway.local_engine import LocalEngine
from tests.gateway.tokenizers import fast, llama_like

PATH = "/v1/chat/completions"
USER: list[Any] = [{"role": "user", "content": "Hi"}]
BODY: dict[str, Any] = {"model": MODEL, "messages": USER, "max_tokens": 8, "temperature": 0}
JSON = {"Content-Type": "application/json"}


class FailingEngine:
    """A real engine whose swarm fails after some tokens."""

    def __init__(self, engine: LocalEngine, tokens: int, error: Exception) -> None:
        self._engine = engine
        self._tokens = tokens
        self._error = error
        self.asked = 0

    def generate_each(
        self, prompt: list[int], choices: Sequence[SamplingParams], on_open: OnOpen = lambda numerics: None
    ) -> Sequence[AsyncGenerator[Token, None]]:
        return [self.generate(prompt, params, on_open) for params in choices]

    async def generate(
        self, prompt: list[int], params: SamplingParams, on_open: OnOpen = lambda numerics: None
    ) -> AsyncGenerator[Token, None]:
        self.asked += 1
        if not self._tokens:
            raise self._error
        left = self._tokens
        async for token in self._engine.generate(prompt, params):
            yield token
            left -= 1
            if not left:
                raise self._error


TEXT: Any = {"type": "text", "text": "Hi"}
CALL: Any = {"id": "call_1", "type": "function", "function": {"name": "f", "arguments": "{}"}}


def assistant(call: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": None, "tool_calls": [call]}


def with_arguments(arguments: Any) -> dict[str, Any]:
    return {**CALL, "function": {"name": "f", "arguments": arguments}}


def tool(name: str, **fields: Any) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, **fields}}


def json_schema(**fields: Any) -> dict[str, Any]:
    return {"type": "json_schema", "json_schema": {"name": "answer", "schema": {}, **fields}}


def error_of(response: httpx.Response, status: int) -> dict[str, Any]:
    """The error object, after a look at its shape."""
    assert response.status_code == status, response.text
    assert set(response.json()) == {"error"}
    error = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    kinds = {429: "rate_limit_error"}
    assert error["type"] == ("server_error" if status >= 500 else kinds.get(status, "invalid_request_error"))
    assert len(error["message"]) > 10
    assert response.headers["x-request-id"].startswith("req_")
    return error


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"model": None}, "model"),
    ({"model": 3}, "model"),
    ({"messages": []}, "messages"),
    ({"messages": "Hi"}, "messages"),
    ({"messages": ["Hi"]}, "messages[0]"),
    ({"messages": [{"role": "user"}]}, "messages[0]"),
    ({"messages": [*USER, {"role": "robot", "content": "Hi"}]}, "messages[1].role"),
    ({"messages": [{"role": "user", "content": 3}]}, "messages[0].content"),
    ({"messages": [{"role": "user", "content": []}]}, "messages[0].content"),
    ({"messages": [{"role": "user", "content": [TEXT, {"type": "image_url"}]}]}, "messages[0].content[1].type"),
    ({"messages": [{"role": "user", "content": [{"type": "text", "text": None}]}]}, "messages[0].content[0]"),
    ({"messages": [{"role": "user", "content": [{"type": "refusal", "refusal": "No."}]}]}, "messages[0]"),
    ({"messages": [{"role": "tool", "content": "4"}]}, "messages[0]"),
    ({"messages": [{"role": "tool", "tool_call_id": "c"}]}, "messages[0]"),
    ({"messages": [{"role": "function", "name": "f", "content": "4"}]}, "messages[0]"),
    ({"messages": [{"role": "user", "content": "", "tool_calls": [CALL]}]}, "messages[0]"),
    ({"messages": [{"role": "assistant", "content": None, "tool_calls": [{}]}]}, "messages[0].tool_calls[0].id"),
    ({"messages": [assistant(CALL | {"type": "custom"})]}, "messages[0].tool_calls[0].type"),
    ({"messages": [assistant(with_arguments({}))]}, "messages[0].tool_calls[0].function.arguments"),
    ({"messages": [{"role": "assistant", "content": "", "function_call": {"name": "f"}}]}, "messages[0]"),
    ({"messages": [{"role": "assistant", "content": "", "audio": {"id": "a"}}]}, "messages[0]"),
    ({"n": 0}, "n"),
    ({"n": 33}, "n"),
    ({"n": True}, "n"),
    ({"logprobs": 2}, "logprobs"),
    ({"logprobs": True, "top_logprobs": 21}, "top_logprobs"),
    ({"presence_penalty": 2.1}, "presence_penalty"),
    ({"frequency_penalty": -2.1}, "frequency_penalty"),
    ({"repetition_penalty": 0}, "repetition_penalty"),
    ({"min_p": 1.1}, "min_p"),
    ({"min_tokens": 9}, "min_tokens"),
    ({"stop_token_ids": [259]}, "stop_token_ids"),
    ({"logit_bias": {"259": 1}}, "logit_bias"),
    ({"logit_bias": {"a": 1}}, "logit_bias"),
    ({"logit_bias": {"07": 1}}, "logit_bias"),
    ({"logit_bias": {"7": 101}}, "logit_bias[7]"),
    ({"logit_bias": {str(number): 1 for number in range(1025)}}, "logit_bias"),
    ({"logit_bias": [1]}, "logit_bias"),
    ({"tools": [{"type": "custom", "custom": {"name": "f"}}]}, "tools[0].type"),
    ({"tools": [tool("a b")]}, "tools[0].function.name"),
    ({"tools": [tool("f"), tool("f")]}, "tools[1].function.name"),
    ({"tools": [tool("f", parameters={"type": "string"})]}, "tools[0].function.parameters"),
    ({"tools": [tool(f"f{number}") for number in range(129)]}, "tools"),
    ({"tool_choice": "required"}, "tool_choice"),
    ({"tool_choice": "any", "tools": [tool("f")]}, "tool_choice.type"),
    ({"tool_choice": {"type": "function"}, "tools": [tool("f")]}, "tool_choice"),
    ({"tool_choice": {"type": "function", "function": {"name": "g"}}, "tools": [tool("f")]}, "tool_choice"),
    ({"response_format": "json"}, "response_format"),
    ({"response_format": {"type": "xml"}}, "response_format.type"),
    ({"response_format": {"type": "json_schema"}}, "response_format"),
    ({"response_format": json_schema(name="a b")}, "response_format.json_schema.name"),
    ({"response_format": json_schema(schema=[])}, "response_format.json_schema.schema"),
    ({"reasoning_effort": "much"}, "reasoning_effort"),
    ({"chat_template_kwargs": "a"}, "chat_template_kwargs"),
    ({"temperature": -0.1}, "temperature"),
    ({"temperature": 2.1}, "temperature"),
    ({"temperature": "1"}, "temperature"),
    ({"temperature": True}, "temperature"),
    ({"top_p": 0}, "top_p"),
    ({"top_p": 1.01}, "top_p"),
    ({"top_k": -2}, "top_k"),
    ({"top_k": 1.5}, "top_k"),
    ({"max_tokens": 0}, "max_tokens"),
    ({"max_tokens": "8"}, "max_tokens"),
    ({"max_completion_tokens": -1}, "max_completion_tokens"),
    ({"seed": 2**64}, "seed"),
    ({"seed": 1.5}, "seed"),
    ({"stop": ""}, "stop[0]"),
    ({"stop": ["a", ""]}, "stop[1]"),
    ({"stop": ["a"] * 5}, "stop"),
    ({"stop": "x" * 257}, "stop[0]"),
    ({"stop": 3}, "stop"),
    ({"stream": "yes"}, "stream"),
    ({"return_token_ids": 1}, "return_token_ids"),
    ({"return_token_ids": "true"}, "return_token_ids"),
    ({"stream": True, "stream_options": {"include_usage": "yes"}}, "stream_options.include_usage"),
]
"""What is wrong, and the field that is named for it."""


async def test_wrong_values_are_refused_by_name(http: httpx.AsyncClient):
    for change, param in WRONG:  # one server for all: there are many
        error = error_of(await http.post(PATH, json={**BODY, **change}), 400)
        assert error["param"] == param, change
        assert param in error["message"], change


@pytest.mark.parametrize(
    "change",
    [
        {"max_completion_tokens": 9},
        {"stream_options": {"include_usage": True}},
        {"top_logprobs": 2},
        {"guided_json": {}, "response_format": {"type": "json_object"}},
        {"ignore_eos": True, "response_format": {"type": "json_object"}},
        {"min_tokens": 3, "response_format": {"type": "json_object"}},
    ],
)
async def test_fields_that_contradict_each_other_are_refused(http: httpx.AsyncClient, change: dict[str, Any]):
    error = error_of(await http.post(PATH, json={**BODY, **change}), 400)
    assert next(iter(change)) in error["message"]
    assert error["param"] in {**BODY, **change}


@pytest.mark.parametrize(
    "change",
    [
        {"functions": [{"name": "f"}]},
        {"function_call": {"name": "f"}},
        {"best_of": 2},
        {"modalities": ["text", "audio"]},
        {"audio": {"voice": "alloy"}},
        {"web_search_options": {}},
        {"moderation": {"model": "m"}},
        {"service_tier": "priority"},
        {"continue_final_message": True},
        {"add_generation_prompt": False},
    ],
)
async def test_what_is_not_built_yet_is_refused_by_name(http: httpx.AsyncClient, change: dict[str, Any]):
    error = error_of(await http.post(PATH, json={**BODY, **change}), 400)
    (name,) = change
    assert (error["param"], error["code"]) == (name, "unsupported_parameter")
    assert name in error["message"]


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b'"text"',
        b"null",
        b"[" * 100_000,
        b'{"temperature": NaN}',
        b'{"model": "\xff"}',
        b'{"model": "\\ud800"}',
        b'{"a":' * 5000,
    ],
)
async def test_what_is_no_json_object_is_refused(http: httpx.AsyncClient, body: bytes):
    error = error_of(await http.post(PATH, content=body, headers=JSON), 400)
    assert "JSON" in error["message"]


async def test_a_web_pages_form_is_refused(http: httpx.AsyncClient):
    response = await http.post(PATH, content=b"{}", headers={"Content-Type": "text/plain"})
    assert "Content-Type" in error_of(response, 400)["message"]


async def chunks(size: int) -> AsyncIterator[bytes]:
    for _ in range(size // 100_000):
        yield b" " * 100_000


@pytest.mark.parametrize("size", [10_100_000, 40_000_000])
@pytest.mark.parametrize("counted", [True, False])
async def test_a_body_over_the_limit_is_refused(http: httpx.AsyncClient, size: int, counted: bool):
    content: Any = b" " * size if counted else chunks(size)
    error = error_of(await http.post(PATH, content=content, headers=JSON), 413)
    assert "10000000 bytes" in error["message"]
    assert (await http.get("/v1/models")).status_code == 200


async def test_a_body_just_under_the_limit_is_read(http: httpx.AsyncClient):
    response = await http.post(PATH, content=b" " * 9_999_999 + b"1", headers=JSON)
    assert "JSON object" in error_of(response, 400)["message"]


async def test_a_prompt_over_the_context_never_reaches_the_engine(http: httpx.AsyncClient, engine: LocalEngine):
    long = [{"role": "user", "content": "x" * 600}]
    for stream in (False, True):
        error = error_of(await http.post(PATH, json={**BODY, "messages": long, "stream": stream}), 400)
        assert (error["code"], error["param"]) == ("context_length_exceeded", "messages")
        assert "512" in error["message"]
    assert engine.made == 0


async def test_an_unknown_model_is_not_found(openai: AsyncOpenAI):
    with pytest.raises(sdk.NotFoundError) as refused:
        await openai.chat.completions.create(**{**BODY, "model": "no/such"})
    assert (refused.value.code, refused.value.param) == ("model_not_found", "model")
    assert refused.value.request_id


async def test_a_model_with_a_missing_part_says_which(site: Site, http: httpx.AsyncClient):
    site.shelf.holes["half/model"] = BlockRange(8, 16)
    response = await http.post(PATH, json={**BODY, "model": "half/model"})
    error = error_of(response, 503)
    assert error["code"] == "no_route"
    assert "8:16" in error["message"]
    assert int(response.headers["retry-after"]) > 0


async def test_a_model_without_a_template_says_so(site: Site, http: httpx.AsyncClient, model: ServedModel):
    bare = TextTokenizer(fast(llama_like(), None), frozenset())
    site.shelf.models["bare"] = ServedModel("bare", 0, bare, model.engine, 512, frozenset())
    error = error_of(await http.post(PATH, json={**BODY, "model": "bare"}), 400)
    assert "chat template" in error["message"]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("failure", "status", "code"),
    [
        (OutOfCache("no room for 100 tokens"), 503, "out_of_cache"),
        (QueueFull("64 requests wait already"), 429, "queue_full"),
        (QueueTimeout("the cache was full for 60 s"), 503, "queue_timeout"),
        (DeadlinePassed("the route took over 10 s"), 504, "deadline_passed"),
        (HopFailed(PeerId("12D3KooX"), "lost", "the link to 12D3KooX ended"), 502, "hop_failed"),
    ],
)
async def test_a_swarm_that_fails_at_once_is_a_status(
    site: Site, http: httpx.AsyncClient, model: ServedModel, engine: LocalEngine,
    failure: Exception, status: int, code: str, stream: bool,
):  # fmt: skip
    site.serve(model, FailingEngine(engine, 0, failure))
    response = await http.post(PATH, json={**BODY, "stream": stream})
    error = error_of(response, status)
    assert error.pop("message").endswith(str(failure))
    assert (error["param"], error["code"]) == (None, code)
    assert ("retry-after" in response.headers) == (status in (429, 503))


class FullSwarm(FailingEngine):
    """A request waits for room, and then there was none."""

    async def generate(
        self, prompt: list[int], params: SamplingParams, on_open: OnOpen = lambda numerics: None
    ) -> AsyncGenerator[Token, None]:
        await asyncio.sleep(0.3)
        async for token in super().generate(prompt, params, on_open):
            yield token


async def test_who_waits_in_vain_is_told_by_a_status_however_long_it_took(
    site: Site, http: httpx.AsyncClient, model: ServedModel, engine: LocalEngine, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("gateway.api.answering.FIRST_ITEM_S", 0.05)
    site.serve(model, FullSwarm(engine, 0, QueueTimeout("the cache was full for 60 s")))
    response = await http.post(PATH, json={**BODY, "stream": True})
    assert error_of(response, 503)["code"] == "queue_timeout"


async def test_a_session_that_never_fits_is_not_tried_again(
    site: Site, openai: AsyncOpenAI, model: ServedModel, engine: LocalEngine
):
    """OpenAI's clients try a 503 twice more by themselves, which would not help here."""
    site.serve(model, refusing := FailingEngine(engine, 0, OutOfCache("sessions have at most 100 tokens")))
    with pytest.raises(sdk.InternalServerError, match="at most 100 tokens"):
        await openai.with_options(max_retries=2).chat.completions.create(**BODY)
    assert refusing.asked == 1


async def test_a_swarm_that_fails_midway_ends_a_stream_by_an_error(
    site: Site, openai: AsyncOpenAI, http: httpx.AsyncClient, model: ServedModel, engine: LocalEngine
):
    site.serve(model, FailingEngine(engine, 5, HopFailed(PeerId("12D3KooX"), "lost", "the link to 12D3KooX ended")))
    stream = await openai.chat.completions.create(**BODY, stream=True)
    with pytest.raises(sdk.APIError, match="12D3KooX") as failed:
        async for _ in stream:
            pass
    assert failed.value.code == "hop_failed"
    body = (await http.post(PATH, json={**BODY, "stream": True})).text
    assert "[DONE]" not in body
    assert error_of(await http.post(PATH, json=BODY), 502)["code"] == "hop_failed"


@pytest.mark.parametrize("tokens", [0, 5])
@pytest.mark.parametrize("stream", [False, True])
async def test_an_unexpected_error_tells_nothing_to_the_client_and_no_text_to_the_log(
    site: Site, http: httpx.AsyncClient, model: ServedModel, engine: LocalEngine,
    caplog: pytest.LogCaptureFixture, tokens: int, stream: bool,
):  # fmt: skip
    caplog.set_level(logging.DEBUG)
    site.serve(model, FailingEngine(engine, tokens, RuntimeError("prompt was: tell no one")))
    messages = [{"role": "user", "content": "tell no one"}]
    response = await http.post(PATH, json={**BODY, "messages": messages, "stream": stream})
    assert response.status_code == (200 if stream and tokens else 500)
    assert "internal_error" in response.text
    assert "tell no one" not in response.text + caplog.text
    assert "RuntimeError" in caplog.text
    assert "test_refusals.py" in caplog.text  # where it happened


async def test_nothing_that_is_said_is_logged(http: httpx.AsyncClient, caplog: pytest.LogCaptureFixture):
    caplog.set_level(logging.DEBUG)
    for stream in (False, True):
        messages = [{"role": "user", "content": "a secret phrase"}]
        await http.post(PATH, json={**BODY, "messages": messages, "stream": stream})
    assert "sse_starlette" not in {record.name.partition(".")[0] for record in caplog.records}
    assert "a secret phrase" not in caplog.text


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [("GET", "/nothing", 404), ("GET", "/v1/nothing", 404), ("GET", PATH, 405), ("DELETE", "/v1/models", 405)],
)
async def test_other_paths_and_methods_have_the_shape_too(http: httpx.AsyncClient, method: str, path: str, status: int):
    error_of(await http.request(method, path), status)


async def test_no_other_web_page_may_read_answers(http: httpx.AsyncClient):
    asked = {"Origin": "https://elsewhere.example", "Access-Control-Request-Method": "POST"}
    response = await http.request("OPTIONS", PATH, headers=asked)
    assert not any(name.startswith("access-control") for name in response.headers)
