"""Completions through the real `openai` package."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator
from typing import Any

import httpx
import pytest
import torch
from openai import AsyncOpenAI, BadRequestError

from gateway.generation.completion import ServedModel
from gateway.generation.tokens import Token
from shared.errors import HopFailed
from shared.types import PeerId
from tests.gateway.api.conftest import DEADLINE_S, MODEL, Site
from tests.gateway.local_engine import LocalEngine
from tests.tiny_models import END_ID, START_ID

PROMPT = "Once upon 😀"
PROMPTS = ["Once upon 😀", "a time", "There was"]
GREEDY: dict[str, Any] = {"model": MODEL, "prompt": PROMPT, "temperature": 0, "max_tokens": 12}


def generated(engine: LocalEngine, ids: list[int], tokens: int) -> list[int]:
    """What transformers itself generates, greedily."""
    options: dict[str, Any] = {"max_new_tokens": tokens, "do_sample": False}
    made = engine.model.generate(torch.tensor([ids]), **options)  # pyright: ignore[reportCallIssue]
    return made[0, len(ids) :].tolist()


def logprobs_of(engine: LocalEngine, ids: list[int]) -> torch.Tensor:
    """(tokens, vocabulary): what a whole model says comes after each of these tokens."""
    with torch.inference_mode():
        return engine.model(input_ids=torch.tensor([ids])).logits[0].float().log_softmax(1)


async def events(http: httpx.AsyncClient, **body: Any) -> list[dict[str, Any]]:
    response = await http.post("/v1/completions", json={**GREEDY, "stream": True, **body})
    assert response.status_code == 200, response.text
    *lines, done, _ = response.text.split("\n\n")
    assert done == "data: [DONE]"
    return [json.loads(line.removeprefix("data: ")) for line in lines]


async def test_a_completion_has_openais_shape(openai: AsyncOpenAI, model: ServedModel, engine: LocalEngine):
    ids = await model.tokenizer.encode_text(PROMPT)
    answer = await openai.completions.create(model=MODEL, prompt=PROMPT, temperature=0, user="somebody")
    (choice,) = answer.choices
    assert choice.text == model.tokenizer.decode(generated(engine, ids, 16))  # OpenAI's default here
    assert (choice.index, choice.finish_reason, choice.logprobs) == (0, "length", None)
    assert answer.id.startswith("cmpl-")
    assert (answer.object, answer.model) == ("text_completion", MODEL)
    assert answer.system_fingerprint is not None
    assert answer.system_fingerprint.startswith("fp_")
    assert answer.usage is not None
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (len(ids), 16)


@pytest.mark.parametrize("as_ids", [False, True])
async def test_a_batch_of_prompts_gives_what_each_gives_alone(openai: AsyncOpenAI, model: ServedModel, as_ids: bool):
    ids = [await model.tokenizer.encode_text(prompt) for prompt in PROMPTS]
    prompts: Any = ids if as_ids else PROMPTS
    single = [await openai.completions.create(**{**GREEDY, "prompt": prompt}) for prompt in PROMPTS]
    batch = await openai.completions.create(**{**GREEDY, "prompt": prompts})
    assert [choice.index for choice in batch.choices] == [0, 1, 2]
    assert [choice.text for choice in batch.choices] == [answer.choices[0].text for answer in single]
    assert batch.usage is not None
    assert batch.usage.prompt_tokens == sum(map(len, ids))
    assert batch.usage.completion_tokens == 36


async def test_streamed_choices_of_several_prompts_join_to_what_is_not_streamed(openai: AsyncOpenAI):
    asked: dict[str, Any] = {**GREEDY, "prompt": PROMPTS, "temperature": 1, "seed": 5, "n": 2, "logprobs": 1}
    answer = await openai.completions.create(**asked)
    texts, finishes = [""] * 6, [""] * 6
    tokens: list[list[str]] = [[] for _ in texts]
    async for chunk in await openai.completions.create(**asked, stream=True):
        (choice,) = chunk.choices
        texts[choice.index] += choice.text
        finishes[choice.index] += choice.finish_reason or ""
        assert choice.logprobs is not None
        tokens[choice.index] += choice.logprobs.tokens or []
    assert texts == [choice.text for choice in answer.choices]
    assert len(set(texts)) == 6
    assert finishes == [choice.finish_reason for choice in answer.choices]
    assert tokens == [choice.logprobs and choice.logprobs.tokens for choice in answer.choices]


async def test_usage_comes_last_in_a_stream_and_is_null_before(http: httpx.AsyncClient):
    *chunks, last = await events(http, prompt=PROMPTS, stream_options={"include_usage": True})
    assert all(chunk["usage"] is None and len(chunk["choices"]) == 1 for chunk in chunks)
    assert last["choices"] == []
    assert last["usage"]["completion_tokens"] == 36
    assert len({(chunk["id"], chunk["created"], chunk["object"]) for chunk in [*chunks, last]}) == 1
    assert not any("usage" in chunk for chunk in await events(http))


@pytest.mark.parametrize("stream", [False, True])
async def test_an_echo_comes_before_each_completion(http: httpx.AsyncClient, stream: bool):
    body = {**GREEDY, "prompt": PROMPTS, "n": 2}
    plain = (await http.post("/v1/completions", json=body)).json()["choices"]
    texts = [""] * 6
    if stream:
        for chunk in await events(http, **body, echo=True):
            texts[chunk["choices"][0]["index"]] += chunk["choices"][0]["text"]
    else:
        echoed = await http.post("/v1/completions", json={**body, "echo": True})
        texts = [choice["text"] for choice in echoed.json()["choices"]]
    assert texts == [PROMPTS[number // 2] + choice["text"] for number, choice in enumerate(plain)]


async def test_an_echo_of_token_ids_is_their_text_with_special_tokens(openai: AsyncOpenAI, engine: LocalEngine):
    ids = [START_ID, 72, 73, END_ID]
    asked: dict[str, Any] = {**GREEDY, "prompt": ids, "echo": True, "max_tokens": 0}
    answer = await openai.completions.create(**asked)
    (choice,) = answer.choices
    assert choice.text.startswith("<|im_start|>")
    assert choice.text.endswith("<|im_end|>")
    assert choice.finish_reason == "length"
    assert answer.usage is not None
    assert answer.usage.total_tokens == 4
    assert engine.made == 0


@pytest.mark.parametrize("prompt", [PROMPT, "<|im_start|>user\nHi<|im_end|>"])
async def test_prompts_are_scored_as_a_whole_model_scores_them(
    openai: AsyncOpenAI, model: ServedModel, engine: LocalEngine, prompt: str
):
    ids = await model.tokenizer.encode_text(prompt)
    wanted = logprobs_of(engine, ids)[range(len(ids) - 1), ids[1:]]
    asked: dict[str, Any] = {"model": MODEL, "prompt": prompt, "echo": True, "max_tokens": 0, "logprobs": 3}
    told = (await openai.completions.create(**asked)).choices[0].logprobs
    assert told is not None
    assert told.token_logprobs is not None
    assert told.top_logprobs is not None
    assert told.tokens is not None
    first, *others = told.token_logprobs
    assert first is None  # pyright: ignore[reportUnnecessaryComparison]
    assert others == pytest.approx(wanted.tolist(), abs=1e-4)
    assert told.top_logprobs[0] is None  # pyright: ignore[reportUnnecessaryComparison]
    for token, logprob, top in zip(told.tokens[1:], others, told.top_logprobs[1:], strict=True):
        assert 3 <= len(top) <= 4
        assert top[token] == logprob


async def test_offsets_say_where_in_the_text_each_token_begins(openai: AsyncOpenAI, model: ServedModel):
    prompt = "<|im_start|>é 😀!"
    answer = await openai.completions.create(**{**GREEDY, "prompt": prompt, "echo": True, "logprobs": 0})
    choice = answer.choices[0]
    assert choice.logprobs is not None
    assert choice.logprobs.tokens is not None
    named = dict(zip(choice.logprobs.tokens, choice.logprobs.text_offset or (), strict=False))
    assert named["<|im_start|>"] == 0
    assert named["!"] == choice.text.index("!")
    assert named["bytes:\\xf0"] == choice.text.index("😀")
    offsets = choice.logprobs.text_offset or []
    assert offsets == sorted(offsets)
    assert len(offsets) == len(await model.tokenizer.encode_text(prompt)) + 12
    assert offsets[-1] <= len(choice.text)


async def test_completions_are_told_with_the_probabilities_of_their_tokens(
    openai: AsyncOpenAI, model: ServedModel, engine: LocalEngine
):
    prompt = await model.tokenizer.encode_text(PROMPT)
    ids = generated(engine, prompt, 12)
    rows = logprobs_of(engine, prompt + ids)[len(prompt) - 1 : -1]
    asked: dict[str, Any] = {**GREEDY, "logprobs": 2, "extra_body": {"return_tokens_as_token_ids": True}}
    told = (await openai.completions.create(**asked)).choices[0].logprobs
    assert told is not None
    assert told.tokens == [f"token_id:{token}" for token in ids]
    assert told.token_logprobs == pytest.approx(rows[range(12), ids].tolist(), abs=1e-4)
    assert told.top_logprobs is not None
    for row, top in zip(rows, told.top_logprobs, strict=True):
        best = row.topk(2)
        assert top == {f"token_id:{each}": pytest.approx(float(row[each]), abs=1e-4) for each in best.indices.tolist()}


async def test_the_best_of_several_have_the_highest_log_probability_a_token(openai: AsyncOpenAI):
    asked: dict[str, Any] = {**GREEDY, "prompt": PROMPTS[:2], "temperature": 1.5, "seed": 3, "max_tokens": 8}
    every = (await openai.completions.create(**asked, n=5, logprobs=0)).choices

    def mean(number: int) -> float:
        logprobs = every[number].logprobs
        assert logprobs is not None
        assert logprobs.token_logprobs
        return sum(logprobs.token_logprobs) / len(logprobs.token_logprobs)

    wanted = [each for prompt in (range(5), range(5, 10)) for each in sorted(prompt, key=mean, reverse=True)[:2]]
    best = await openai.completions.create(**asked, n=2, best_of=5)
    assert [choice.text for choice in best.choices] == [every[each].text for each in wanted]
    assert [choice.index for choice in best.choices] == [0, 1, 2, 3]
    assert {choice.logprobs for choice in best.choices} == {None}
    assert best.usage is not None
    assert best.usage.completion_tokens == 80  # those that are not given back too


async def test_stop_strings_seeds_and_biases_do_what_they_say(openai: AsyncOpenAI):
    async def said(**options: Any) -> str:
        return (await openai.completions.create(**{**GREEDY, **options})).choices[0].text

    text = await said()
    assert await said(stop=text[3:5]) == text[: text.index(text[3:5])]
    assert await said(temperature=1, seed=4) == await said(temperature=1, seed=4) != await said(temperature=1, seed=5)
    assert await said(logit_bias={"40": 100}, max_tokens=5) == (await said(max_tokens=1, logit_bias={"40": 100})) * 5
    assert await said(logit_bias={"40": 100}, frequency_penalty=2, presence_penalty=2) != await said()


@pytest.mark.parametrize("field", ["response_format", "guided_json"])
async def test_a_completion_may_be_held_to_a_schema(openai: AsyncOpenAI, field: str):
    schema = {"enum": ["red", "green"]}
    form = {"type": "json_schema", "json_schema": {"name": "colour", "schema": schema}}
    body = {field: schema if field == "guided_json" else form}
    asked: dict[str, Any] = {**GREEDY, "prompt": PROMPTS[:2], "temperature": 1, "max_tokens": 20, "n": 2}
    answer = await openai.completions.create(**asked, extra_body=body)
    assert {choice.finish_reason for choice in answer.choices} == {"stop"}
    assert {json.loads(choice.text) for choice in answer.choices} <= {"red", "green"}


async def test_token_ids_come_when_they_are_asked_for(http: httpx.AsyncClient, model: ServedModel, engine: LocalEngine):
    body = {**GREEDY, "prompt": PROMPTS, "return_token_ids": True}
    prompts = [await model.tokenizer.encode_text(prompt) for prompt in PROMPTS]
    choices = (await http.post("/v1/completions", json=body)).json()["choices"]
    assert [choice["prompt_token_ids"] for choice in choices] == prompts
    assert [choice["token_ids"] for choice in choices] == [generated(engine, prompt, 12) for prompt in prompts]
    joined: list[list[int]] = [[], [], []]
    for chunk in await events(http, **body):
        (choice,) = chunk["choices"]
        assert ("prompt_token_ids" in choice) == (not joined[choice["index"]])
        joined[choice["index"]] += choice["token_ids"]
    assert joined == [choice["token_ids"] for choice in choices]
    assert "token_ids" not in (await http.post("/v1/completions", json=GREEDY)).text


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"suffix": "."}, "suffix"),
    ({"prompt": ""}, "prompt"),
    ({"prompt": None}, "prompt"),
    ({"prompt": []}, "prompt"),
    ({"prompt": [[]]}, "prompt"),
    ({"prompt": ["a", [1]]}, "prompt"),
    ({"prompt": [True]}, "prompt"),
    ({"prompt": [1, -1]}, "prompt"),
    ({"prompt": [[1], [2, 259]]}, "prompt[1]"),
    ({"prompt": ["a", "x" * 512]}, "prompt[1]"),
    ({"prompt": ["a"] * 65, "n": 2}, "prompt"),
    ({"logprobs": 21}, "logprobs"),
    ({"n": 33}, "n"),
    ({"n": 3, "best_of": 2}, "best_of"),
    ({"best_of": 2, "stream": True}, "best_of"),
    ({"max_tokens": 0}, "max_tokens"),
    ({"stream_options": {"include_usage": True}}, "stream_options"),
    ({"prompt_logprobs": 1}, "prompt_logprobs"),
    ({"logit_bias": {"259": 1}}, "logit_bias"),
    ({"guided_regex": "a+"}, "guided_regex"),
    ({"guided_json": {"enum": []}}, "guided_json"),
    ({"guided_json": {}, "response_format": {"type": "json_object"}}, "guided_json"),
]


async def test_what_cannot_be_done_is_refused_by_name(http: httpx.AsyncClient):
    for change, param in REFUSED:
        response = await http.post("/v1/completions", json={**GREEDY, **change})
        assert response.status_code == 400, (change, response.text)
        assert response.json()["error"]["param"] == param, change


async def test_an_echo_with_more_probabilities_than_one_answer_may_have_is_refused(openai: AsyncOpenAI):
    asked: dict[str, Any] = {**GREEDY, "prompt": ["x" * 500] * 100, "echo": True, "logprobs": 20, "max_tokens": 1}
    with pytest.raises(BadRequestError) as refused:
        await openai.completions.create(**asked)
    assert refused.value.param == "logprobs"


async def test_a_prompt_that_fills_the_context_can_be_scored(openai: AsyncOpenAI):
    asked: dict[str, Any] = {**GREEDY, "prompt": "x" * 512, "echo": True, "logprobs": 0, "max_tokens": 0}
    told = (await openai.completions.create(**asked)).choices[0].logprobs
    assert told is not None
    assert len(told.tokens or ()) == 512


class Lame(LocalEngine):
    """Fails for prompts that begin with one letter."""

    def generate_each(self, prompt: Any, choices: Any, on_open: Any = lambda numerics: None) -> Any:
        async def fail() -> Any:
            raise HopFailed(PeerId("12D3KooWx"), "lost", "a hop was lost")
            yield Token(0)

        if prompt[0] == self.failing:
            return [fail() for _ in choices]
        return super().generate_each(prompt, choices, on_open)

    failing = -1


async def test_one_prompt_that_fails_fails_the_request(
    site: Site, model: ServedModel, engine: LocalEngine, http: httpx.AsyncClient
):
    lame = Lame(engine.model)
    lame.failing = (await model.tokenizer.encode_text("b"))[0]
    site.serve(model, lame)
    body = {**GREEDY, "prompt": ["a", "b", "c"], "max_tokens": 400}
    response = await http.post("/v1/completions", json=body)
    assert (response.status_code, response.json()["error"]["code"]) == (502, "hop_failed")
    assert lame.running == 0


class Counting(LocalEngine):
    most = 0

    async def generate(self, *args: Any, **kwargs: Any) -> AsyncGenerator[Token, None]:
        async for token in super().generate(*args, **kwargs):
            self.most = max(self.most, self.running)
            yield token


async def test_some_prompts_run_at_the_same_time_but_never_all_of_many(
    site: Site, model: ServedModel, engine: LocalEngine, http: httpx.AsyncClient
):
    counting = Counting(engine.model)
    site.serve(model, counting)
    body = {**GREEDY, "prompt": ["a"] * 30, "max_tokens": 4}
    response = await http.post("/v1/completions", json=body)
    assert len({choice["text"] for choice in response.json()["choices"]}) == 1
    assert counting.most == 8
    await http.post("/v1/completions", json={**body, "prompt": ["a"] * 4, "best_of": 16, "n": 1})
    assert counting.most == 32


@pytest.mark.parametrize("stream", [False, True])
async def test_a_client_that_leaves_ends_all_prompts(site: Site, engine: LocalEngine, stream: bool):
    _, writer = await asyncio.open_connection("127.0.0.1", site.port)
    asked = {**GREEDY, "prompt": PROMPTS, "max_tokens": 450, "stream": stream, "ignore_eos": True}
    body = json.dumps(asked).encode()
    head = f"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n"
    writer.write(head.encode() + b"Content-Type: application/json\r\n\r\n" + body)
    async with asyncio.timeout(DEADLINE_S):
        await engine.began.wait()
    writer.close()
    async with asyncio.timeout(DEADLINE_S):
        while engine.running:
            engine.ended.clear()
            await engine.ended.wait()
    assert engine.made < 3 * 450
