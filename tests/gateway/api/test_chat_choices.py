"""Several choices of one chat completion, and how their tokens are drawn."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import httpx
import pytest
from openai import AsyncOpenAI

from gateway.generation.completion import ServedModel
from tests.gateway.api.conftest import MODEL, Site
from tests.gateway.local_engine import LocalEngine

MESSAGES: Any = [{"role": "user", "content": "Hi"}]
ASKED: dict[str, Any] = {"model": MODEL, "messages": MESSAGES, "max_tokens": 12, "seed": 3}


async def ids_of(http: httpx.AsyncClient, **options: Any) -> list[list[int]]:
    """The token ids of each choice."""
    body = {**ASKED, "return_token_ids": True, **options}
    response = await http.post("/v1/chat/completions", json=body)
    assert response.status_code == 200, response.text
    return [choice["token_ids"] for choice in response.json()["choices"]]


async def test_choices_differ_and_one_seed_repeats_them_all(openai: AsyncOpenAI):
    first = await openai.chat.completions.create(**ASKED, n=3)
    second = await openai.chat.completions.create(**ASKED, n=3)
    alone = await openai.chat.completions.create(**ASKED)
    texts = [choice.message.content for choice in first.choices]
    assert [choice.index for choice in first.choices] == [0, 1, 2]
    assert len(set(texts)) == 3
    assert texts == [choice.message.content for choice in second.choices]
    assert texts[0] == alone.choices[0].message.content
    assert first.system_fingerprint == second.system_fingerprint
    assert (first.system_fingerprint or "").startswith("fp_")


async def test_usage_counts_one_prompt_and_the_tokens_of_all_choices(openai: AsyncOpenAI, model: ServedModel):
    answer = await openai.chat.completions.create(**{**ASKED, "temperature": 0}, n=3)
    assert answer.usage is not None
    assert answer.usage.prompt_tokens == len(await model.tokenizer.encode_chat(MESSAGES))
    assert answer.usage.completion_tokens == 36
    assert len({choice.message.content for choice in answer.choices}) == 1


async def test_a_stream_of_choices_joins_to_the_same_and_names_each_role_once(openai: AsyncOpenAI):
    whole = await openai.chat.completions.create(**ASKED, n=3)
    texts, roles, finishes = defaultdict[int, str](str), list[int](), dict[int, str | None]()
    usage: Any = None
    async for chunk in await openai.chat.completions.create(
        **ASKED, n=3, stream=True, stream_options={"include_usage": True}
    ):
        assert usage is None  # comes last
        usage = chunk.usage
        for choice in chunk.choices:
            assert choice.index not in finishes
            texts[choice.index] += choice.delta.content or ""
            roles += [choice.index] if choice.delta.role else []
            finishes.update({choice.index: choice.finish_reason} if choice.finish_reason else {})
    assert [texts[choice.index] for choice in whole.choices] == [choice.message.content for choice in whole.choices]
    assert roles == [0, 1, 2]
    assert finishes == {choice.index: choice.finish_reason for choice in whole.choices}
    assert usage == whole.usage


async def test_openais_stream_helper_takes_several_choices(openai: AsyncOpenAI):
    whole = await openai.chat.completions.create(**ASKED, n=2)
    async with openai.chat.completions.stream(**ASKED, n=2) as stream:
        async for _ in stream:
            pass
        snapshot = stream.current_completion_snapshot
    said = [choice.message.content for choice in snapshot.choices]
    assert said == [choice.message.content for choice in whole.choices]
    assert [choice.message.role for choice in snapshot.choices] == ["assistant", "assistant"]


async def test_a_client_that_leaves_ends_all_choices(http: httpx.AsyncClient, engine: LocalEngine):
    body = {**ASKED, "n": 4, "max_tokens": 450, "stream": True, "ignore_eos": True}
    async with http.stream("POST", "/v1/chat/completions", json=body) as response:
        await anext(response.aiter_lines())
        assert engine.running
    while engine.running:
        await engine.ended.wait()
        engine.ended.clear()
    assert engine.made < 4 * 450


async def test_biases_and_penalties_decide_what_comes(http: httpx.AsyncClient):
    greedy: dict[str, Any] = {"temperature": 0}
    (plain,) = await ids_of(http, **greedy)
    assert await ids_of(http, **greedy, logit_bias={"65": 100}) == [[65] * 12]
    assert plain[0] not in (await ids_of(http, **greedy, logit_bias={str(plain[0]): -100}))[0]
    two: dict[str, Any] = {**greedy, "logit_bias": {"65": 100, "66": 90}}
    assert await ids_of(http, **two) == [[65] * 12]
    for penalty in ({"frequency_penalty": 2}, {"repetition_penalty": 2}):
        assert set((await ids_of(http, **two, **penalty))[0]) == {65, 66}
    assert await ids_of(http, presence_penalty=2) != await ids_of(http)
    assert await ids_of(http, min_p=1) == [plain]
    assert await ids_of(http, min_p=0) != [plain]


async def test_an_answer_ends_at_stop_ids_but_not_too_early(site: Site, http: httpx.AsyncClient):
    greedy: dict[str, Any] = {"temperature": 0, "logit_bias": {"258": 100}}  # the end comes at once
    assert await ids_of(http, **greedy) == [[258]]
    assert len((await ids_of(http, **greedy, min_tokens=5))[0]) == 6
    assert await ids_of(http, **greedy, ignore_eos=True) == [[258] * 12]
    assert await ids_of(http, temperature=0, logit_bias={"65": 100}, stop_token_ids=[65]) == [[65]]


@pytest.mark.parametrize("stream", [False, True])
async def test_one_prompt_is_filled_for_all_choices(
    site: Site, model: ServedModel, http: httpx.AsyncClient, stream: bool
):
    asked: list[int] = []

    class Counting(LocalEngine):
        def generate_each(self, prompt: Any, choices: Any, on_open: Any = None) -> Any:
            asked.append(len(choices))
            return super().generate_each(prompt, choices, on_open)

    assert isinstance(model.engine, LocalEngine)
    site.serve(model, Counting(model.engine.model))
    body: Any = {**ASKED, "n": 3, "stream": stream}
    assert (await http.post("/v1/chat/completions", json=body)).status_code == 200
    assert asked == [3]
