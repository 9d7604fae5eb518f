"""Log probabilities of chat completions, against those of the whole model."""

from __future__ import annotations

from typing import Any

import httpx
import pytest
import torch
from openai import AsyncOpenAI

from gateway.generation.completion import ServedModel
from tests.gateway.api.conftest import MODEL
from tests.gateway.local_engine import LocalEngine

MESSAGES: Any = [{"role": "user", "content": "Hi"}]
ASKED: dict[str, Any] = {"model": MODEL, "messages": MESSAGES, "max_tokens": 12, "seed": 3}


@torch.inference_mode()
def reference(engine: LocalEngine, prompt: list[int], ids: list[int]) -> torch.Tensor:
    """Log probabilities at each place of the answer, by transformers: (len(ids), vocabulary)."""
    logits = engine.model(input_ids=torch.tensor([prompt + ids])).logits[0].float()
    return logits[len(prompt) - 1 : -1].log_softmax(-1)


async def test_they_are_those_of_the_whole_model(http: httpx.AsyncClient, model: ServedModel, engine: LocalEngine):
    """Neither the temperature nor a bias is in them."""
    options = {"logprobs": True, "top_logprobs": 4, "temperature": 1.5, "logit_bias": {"65": 3}}
    body = {**ASKED, "return_token_ids": True, **options}
    answer = (await http.post("/v1/chat/completions", json=body)).json()
    ids = answer["choices"][0]["token_ids"]
    expected = reference(engine, answer["prompt_token_ids"], ids)
    content = answer["choices"][0]["logprobs"]["content"]
    assert len(content) == len(ids) == 12
    for row, token, entry in zip(expected, ids, content, strict=True):
        assert entry["logprob"] == pytest.approx(float(row[token]), abs=1e-4)
        best = row.topk(4)
        assert [top["logprob"] for top in entry["top_logprobs"]] == pytest.approx(best.values.tolist(), abs=1e-4)
        assert [top["token"] for top in entry["top_logprobs"]] == [
            model.tokenizer.token_text(id) for id in best.indices.tolist()
        ]


async def test_their_bytes_join_to_the_text(openai: AsyncOpenAI):
    answer = await openai.chat.completions.create(**ASKED, logprobs=True)
    (choice,) = answer.choices
    assert choice.logprobs is not None
    assert choice.logprobs.content is not None
    joined = b"".join(bytes(entry.bytes or ()) for entry in choice.logprobs.content)
    assert joined.decode(errors="replace") == choice.message.content
    assert all(entry.top_logprobs == [] for entry in choice.logprobs.content)


async def test_a_stream_tells_each_tokens_once_however_its_text_is_held_back(openai: AsyncOpenAI):
    options: dict[str, Any] = {"logprobs": True, "top_logprobs": 2, "n": 2, "stop": ["never said"]}
    whole = await openai.chat.completions.create(**ASKED, **options)
    streamed: list[list[Any]] = [[], []]
    async for chunk in await openai.chat.completions.create(**ASKED, **options, stream=True):
        for choice in chunk.choices:
            if choice.logprobs:
                streamed[choice.index] += choice.logprobs.content or []
    for choice, told in zip(whole.choices, streamed, strict=True):
        assert choice.logprobs is not None
        assert [entry.to_dict() for entry in told] == [entry.to_dict() for entry in choice.logprobs.content or ()]
        assert len(told) == 12


async def test_the_end_of_an_answer_has_none(openai: AsyncOpenAI):
    answer = await openai.chat.completions.create(**ASKED, logprobs=True, logit_bias={"258": 100})
    assert answer.choices[0].finish_reason == "stop"
    assert answer.choices[0].logprobs is not None
    assert answer.choices[0].logprobs.content == []
