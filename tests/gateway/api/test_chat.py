"""Chat completions through the real `openai` package."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import httpx
import pytest
import torch
from openai import AsyncOpenAI

from gateway.generation.completion import ServedModel
from tests.gateway.api.conftest import MODEL, Site
from tests.gateway.local_engine import LocalEngine

MESSAGES: Any = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi 😀"}]
GREEDY: dict[str, Any] = {"model": MODEL, "messages": MESSAGES, "temperature": 0, "max_tokens": 20}


@pytest.fixture
async def expected(model: ServedModel, engine: LocalEngine) -> str:
    """What transformers itself generates, greedily, decoded at once."""
    prompt = await model.tokenizer.encode_chat(MESSAGES)
    options: dict[str, Any] = {"max_new_tokens": 20, "do_sample": False}
    ids = engine.model.generate(torch.tensor([prompt]), **options)  # pyright: ignore[reportCallIssue]
    return model.tokenizer.decode(ids[0, len(prompt) :].tolist())


async def data_lines(http: httpx.AsyncClient, **body: Any) -> list[str]:
    """The events of a stream as they are on the wire."""
    async with http.stream("POST", "/v1/chat/completions", json={**GREEDY, "stream": True, **body}) as response:
        assert response.status_code == 200, await response.aread()
        assert response.headers["content-type"].startswith("text/event-stream")
        text = (await response.aread()).decode()
    events = text.removesuffix("\n\n").split("\n\n")
    assert all(event.startswith("data: ") and "\n" not in event for event in events)
    return [event.removeprefix("data: ") for event in events]


async def test_an_answer_has_openais_shape(openai: AsyncOpenAI, model: ServedModel, expected: str):
    answer = await openai.chat.completions.create(**GREEDY)
    assert answer.id.startswith("chatcmpl-")
    assert (answer.object, answer.model) == ("chat.completion", MODEL)
    (choice,) = answer.choices
    assert (choice.index, choice.finish_reason, choice.logprobs) == (0, "length", None)
    assert (choice.message.role, choice.message.content, choice.message.refusal) == ("assistant", expected, None)
    assert answer.usage is not None
    prompt_tokens = len(await model.tokenizer.encode_chat(MESSAGES))
    assert answer.usage.to_dict() == {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": 20,
        "total_tokens": prompt_tokens + 20,
        "prompt_tokens_details": {"cached_tokens": 0, "audio_tokens": 0},
        "completion_tokens_details": {
            "reasoning_tokens": 0,
            "audio_tokens": 0,
            "accepted_prediction_tokens": 0,
            "rejected_prediction_tokens": 0,
        },
    }


async def test_a_stream_joins_to_the_same_answer(openai: AsyncOpenAI, expected: str):
    async with openai.chat.completions.stream(**GREEDY, stream_options={"include_usage": True}) as stream:
        async for _ in stream:
            pass
        answer = stream.current_completion_snapshot  # `get_final_completion` would raise for "length"
    assert answer.choices[0].message.content == expected
    assert answer.choices[0].message.role == "assistant"
    assert answer.choices[0].finish_reason == "length"
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 20


async def test_the_chunks_of_a_stream_come_in_openais_order(http: httpx.AsyncClient, expected: str):
    *lines, done = await data_lines(http)
    first, *middle, last = [json.loads(line) for line in lines]
    assert done == "[DONE]"
    assert first["choices"][0]["delta"] == {"role": "assistant", "content": "", "refusal": None}
    assert all(set(chunk["choices"][0]["delta"]) == {"content"} for chunk in middle)
    assert "".join(chunk["choices"][0]["delta"]["content"] for chunk in middle) == expected
    assert len(middle) > 5
    assert last["choices"] == [{"index": 0, "delta": {}, "logprobs": None, "finish_reason": "length"}]
    chunks = [first, *middle, last]
    assert {chunk["choices"][0]["finish_reason"] for chunk in chunks[:-1]} == {None}
    assert len({(chunk["id"], chunk["created"], chunk["model"], chunk["object"]) for chunk in chunks}) == 1
    assert first["object"] == "chat.completion.chunk"
    assert not any("usage" in chunk for chunk in chunks)


async def test_usage_comes_last_and_is_null_before(http: httpx.AsyncClient):
    *lines, done = await data_lines(http, stream_options={"include_usage": True})
    *chunks, last = [json.loads(line) for line in lines]
    assert done == "[DONE]"
    assert all(chunk["usage"] is None and chunk["choices"] for chunk in chunks)
    assert last["choices"] == []
    assert last["usage"]["completion_tokens"] == 20
    assert last["usage"]["total_tokens"] == last["usage"]["prompt_tokens"] + 20


async def test_token_ids_come_when_they_are_asked_for(http: httpx.AsyncClient, model: ServedModel, expected: str):
    body = {**GREEDY, "return_token_ids": True}
    answer = (await http.post("/v1/chat/completions", json=body)).json()
    assert answer["prompt_token_ids"] == await model.tokenizer.encode_chat(MESSAGES)
    ids = answer["choices"][0]["token_ids"]
    assert len(ids) == 20
    assert model.tokenizer.decode(ids) == expected
    plain = (await http.post("/v1/chat/completions", json={**GREEDY, "return_token_ids": False})).text
    assert "token_ids" not in plain


async def test_the_token_ids_of_a_streams_chunks_join_to_the_answers(http: httpx.AsyncClient):
    asked: dict[str, Any] = {"return_token_ids": True, "stream_options": {"include_usage": True}}
    answer = (await http.post("/v1/chat/completions", json={**GREEDY, "return_token_ids": True})).json()
    *lines, _ = await data_lines(http, **asked)
    first, *others = [json.loads(line) for line in lines]
    assert first["prompt_token_ids"] == answer["prompt_token_ids"]
    assert not any("prompt_token_ids" in chunk for chunk in others)
    ids = [token for chunk in others for choice in chunk["choices"] for token in choice["token_ids"]]
    assert ids == answer["choices"][0]["token_ids"]


async def test_the_stop_token_is_among_the_ids(site: Site, http: httpx.AsyncClient, model: ServedModel):
    whole = (await http.post("/v1/chat/completions", json={**GREEDY, "return_token_ids": True})).json()
    ids = whole["choices"][0]["token_ids"]
    ended = ids.index(ids[7]) + 1
    site.shelf.models[MODEL] = replace(model, end_ids=frozenset({ids[7]}))
    *lines, _ = await data_lines(http, return_token_ids=True)
    choices = [choice for line in lines for choice in json.loads(line)["choices"]]
    assert [token for choice in choices for token in choice["token_ids"]] == ids[:ended]
    assert choices[-1]["finish_reason"] == "stop"


async def test_stop_strings_and_max_completion_tokens(openai: AsyncOpenAI, expected: str):
    stop = expected[4:6]
    answer = await openai.chat.completions.create(**GREEDY, stop=[stop, "never"])
    assert answer.choices[0].message.content == expected[: expected.index(stop)]
    assert answer.choices[0].finish_reason == "stop"
    asked = {**GREEDY, "max_tokens": None, "max_completion_tokens": 3}
    answer = await openai.chat.completions.create(**asked)
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 3


async def test_a_seed_repeats_an_answer_and_none_does_not(openai: AsyncOpenAI):
    async def said(**options: Any) -> str | None:
        answer = await openai.chat.completions.create(**{**GREEDY, "temperature": 1.0, **options})
        return answer.choices[0].message.content

    assert await said(seed=-7) == await said(seed=-7) != await said(seed=8)
    assert await said() != await said()
    assert await said(top_p=1e-9) == await said(temperature=0) == await said(extra_body={"top_k": 1})


async def test_what_is_absent_has_a_default_within_the_context(openai: AsyncOpenAI, model: ServedModel):
    answer = await openai.chat.completions.create(model=MODEL, messages=MESSAGES, seed=5)
    assert answer.usage is not None
    assert answer.choices[0].finish_reason == "stop" or answer.usage.total_tokens == model.context_length


async def test_max_tokens_beyond_the_context_is_cut_to_it(openai: AsyncOpenAI, model: ServedModel):
    asked = {**GREEDY, "messages": [{"role": "user", "content": "x" * 460}], "max_tokens": 100_000}
    answer = await openai.chat.completions.create(**asked)
    assert answer.usage is not None
    assert answer.usage.total_tokens == model.context_length


async def test_content_parts_and_developer_messages_are_text(openai: AsyncOpenAI):
    parts: Any = [
        {"role": "developer", "content": [{"type": "text", "text": "Be brief."}]},
        {"role": "user", "content": [{"type": "text", "text": "Hi 😀"}]},
    ]
    plain = await openai.chat.completions.create(**GREEDY)
    in_parts = await openai.chat.completions.create(**{**GREEDY, "messages": parts})
    assert in_parts.choices[0].message.content == plain.choices[0].message.content
    assert in_parts.usage == plain.usage


async def test_fields_that_ask_for_nothing_are_accepted(openai: AsyncOpenAI):
    extensions = {
        **dict.fromkeys(("min_p", "min_tokens"), 0),
        "repetition_penalty": 1.0,
        "top_k": -1,
        "ignore_eos": False,
        "stop_token_ids": [],
        "chat_template_kwargs": {},
        "prompt_cache_key": "k",
        "unheard_of": {"x": 1},
    }
    harmless: dict[str, Any] = {
        **dict.fromkeys(("stop", "seed", "top_p"), None),
        **dict.fromkeys(("presence_penalty", "frequency_penalty"), 0),
        "n": 1,
        "logit_bias": {},
        "logprobs": False,
        "tools": [],
        "tool_choice": "none",
        "parallel_tool_calls": True,
        "response_format": {"type": "text"},
        "user": "me",
        "metadata": {"a": "b"},
        "store": False,
        "service_tier": "auto",
        "prediction": {"type": "content", "content": "x"},
        "reasoning_effort": None,
        "safety_identifier": "s",
        "extra_body": extensions,
    }
    answer = await openai.chat.completions.create(**GREEDY, **harmless)
    assert answer.choices[0].finish_reason == "length"


async def test_messages_beyond_ascii_and_typed_special_tokens_are_answered(openai: AsyncOpenAI):
    messages: Any = [
        {"role": "system", "content": "a\u2028b\x00"},
        {"role": "system", "content": "<|im_end|>"},
        {"role": "assistant", "content": ""},
        {"role": "user", "name": "Zoë", "content": "日本語 \U0001f3f3\ufe0f\u200d\U0001f308"},
    ]
    answer = await openai.chat.completions.create(**{**GREEDY, "messages": messages})
    assert answer.choices[0].finish_reason == "length"
