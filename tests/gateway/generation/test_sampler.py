"""One choice's draws: masks, biases, penalties, and what is told with a token."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from transformers import RepetitionPenaltyLogitsProcessor

from gateway.generation.logprobs import LEAST, with_logprobs
from gateway.generation.penalties import penalize
from gateway.generation.sampler import Sampler, draw_tokens
from gateway.generation.sampling import SamplingParams
from gateway.generation.tokens import Token
from tests.gateway.generation.grammars import InTurn

GREEDY = SamplingParams(temperature=0, top_p=1, top_k=0, seed=1, max_tokens=9, stop_ids=frozenset({4, 99}))
WARM = replace(GREEDY, temperature=1.0)
ROW = torch.tensor([1.0, 3.0, -1.0, 2.5, 2.0])
RANDOM = torch.randn(40, 300, generator=torch.Generator().manual_seed(2)) * 3


def draw(sampler: Sampler, row: torch.Tensor = ROW, position: int = 0) -> Token:
    return draw_tokens(row[None], [sampler], [position])[0]


def sampler(*came: int, prompt: tuple[int, ...] = (), asked: SamplingParams = GREEDY, **fields: Any) -> Sampler:
    """Of an answer of which these tokens came."""
    made = Sampler(replace(asked, **fields), prompt)
    for token in came:
        made.accept(token)
    return made


async def greedy_over(asked: SamplingParams, draws: int, row: torch.Tensor = ROW) -> list[int]:
    """The draws from the same row again and again."""
    ids: list[int] = []
    async with Sampler(asked, ()) as choice:
        for position in range(draws):
            await choice.ready()
            ids.append(draw(choice, row, position).id)
            choice.accept(ids[-1])
    return ids


@pytest.mark.parametrize(
    ("fields", "came", "prompt", "expected"),
    [
        ({}, (1,), (), 1),
        ({"presence_penalty": 0.6}, (1,), (), 3),
        ({"presence_penalty": 0.4}, (1, 1, 1), (), 1),
        ({"frequency_penalty": 0.2}, (1, 1), (), 1),
        ({"frequency_penalty": 0.2}, (1, 1, 1), (), 3),
        ({"frequency_penalty": 0.2}, (), (1, 1, 1), 1),
        ({"presence_penalty": -2.0}, (3,), (), 3),
        ({"repetition_penalty": 1.3}, (), (1,), 3),
        ({"repetition_penalty": 1.3}, (1,), (), 3),
        ({"repetition_penalty": 1.3}, (1, 3), (4,), 1),
        ({"logit_bias": {1: -100.0}}, (), (), 3),
        ({"logit_bias": {2: 100.0, 7: 100.0}}, (), (), 2),
        ({"logit_bias": {1: -100.0}, "presence_penalty": 1.0}, (3,), (), 4),
        ({"logit_bias": {1: -100.0, 3: -100.0}, "min_tokens": 1}, (), (), 0),
        ({"logit_bias": {1: -100.0, 3: -100.0}, "min_tokens": 1}, (0,), (), 4),
    ],
)
def test_greedy_takes_the_best_of_what_is_left(
    fields: dict[str, Any], came: tuple[int, ...], prompt: tuple[int, ...], expected: int
):
    assert draw(sampler(*came, prompt=prompt, **fields)).id == expected


@pytest.mark.parametrize("answer", [[], [5, 7, 7, 200], list(range(300))])
def test_a_repetition_penalty_is_that_of_transformers(answer: list[int]):
    prompt, scores = [3, 5, 3, 250], RANDOM[0].clone()
    params = replace(GREEDY, repetition_penalty=1.7)
    penalize(scores.numpy(), params, np.array(prompt), Counter(answer))
    expected = RepetitionPenaltyLogitsProcessor(1.7)(torch.tensor([prompt + answer]), RANDOM[:1].clone())  # pyright: ignore[reportArgumentType]
    torch.testing.assert_close(scores, expected[0])


def test_presence_and_frequency_are_what_openai_writes():
    scores = RANDOM[0].double()
    penalized = RANDOM[0].clone()
    penalize(
        penalized.numpy(), replace(GREEDY, presence_penalty=0.5, frequency_penalty=0.25), np.array([9]), {7: 3, 8: 1}
    )
    scores[7] -= 3 * 0.25 + 0.5
    scores[8] -= 0.25 + 0.5
    torch.testing.assert_close(penalized.double(), scores)


def test_what_has_no_effect_changes_no_draw():
    plain = [draw(sampler(asked=WARM), row, place).id for place, row in enumerate(RANDOM)]
    harmless = {"presence_penalty": 1.0, "logit_bias": {500: 9.0}, "top_logprobs": 3, "repetition_penalty": 2.0}
    harmed = sampler(asked=WARM, **harmless)  # nothing has come yet
    assert [draw(harmed, row, place).id for place, row in enumerate(RANDOM)] == plain
    assert len(set(plain)) > 20


def test_a_draw_changes_nothing_and_rows_do_not_change_each_other():
    asked = [{}, {"presence_penalty": 2.0}, {"logit_bias": {1: 5.0}}, {"top_logprobs": 4}, {"temperature": 0.0}] * 8
    samplers = [sampler(7, 8, asked=WARM, **fields) for fields in asked]
    rows = RANDOM.clone()
    together = draw_tokens(rows, samplers, range(40))
    assert together == draw_tokens(rows, samplers, range(40))
    assert together == [draw(each, row, place) for place, (each, row) in enumerate(zip(samplers, RANDOM, strict=True))]
    assert torch.equal(rows, RANDOM)


@pytest.mark.parametrize("asked", [GREEDY, WARM, replace(WARM, top_k=3), replace(WARM, top_p=0.9, min_p=0.01)])
async def test_a_grammar_decides_what_may_come(asked: SamplingParams):
    grammar = InTurn(({2}, {0, 2}, {3, 2}), {4}, vocabulary=5)
    first, second, third, end = await greedy_over(replace(asked, grammar=grammar), 4)
    assert (first, end) == (2, 4)
    assert second in {0, 2}
    assert third in {3, 2}


async def test_a_bias_moves_what_a_grammar_allows_and_nothing_else():
    grammar = InTurn(({0, 2}, {0, 2}), {4}, vocabulary=5)
    assert await greedy_over(replace(GREEDY, grammar=grammar, logit_bias={2: 9.0, 1: 100.0}), 3) == [2, 2, 4]


async def test_where_a_grammar_wants_the_end_min_tokens_give_way():
    grammar = InTurn(({1}, {0, 4}), {4}, vocabulary=5)
    assert await greedy_over(replace(GREEDY, grammar=grammar, min_tokens=9), 3) == [1, 0, 4]


async def test_a_grammar_is_prepared_off_the_event_loop():
    grammar = InTurn(({1}, {0}), {4}, vocabulary=5)
    await greedy_over(replace(GREEDY, grammar=grammar), 3)
    assert grammar.threads
    assert not any(thread.name == "MainThread" for thread in grammar.threads)


async def test_what_goes_wrong_in_a_grammar_is_told_before_the_next_draw():
    async with Sampler(replace(GREEDY, grammar=InTurn(({1},), {4}, vocabulary=5)), ()) as choice:
        choice.accept(3)
        with pytest.raises(ValueError, match="may not come"):
            await choice.ready()


def test_log_probabilities_are_the_models_own():
    asked = sampler(3, asked=WARM, top_logprobs=3, temperature=0.1, presence_penalty=2.0, logit_bias={0: 50.0})
    told, expected = draw(asked), ROW.double().log_softmax(0)
    assert told.id == 0
    assert told.logprob == pytest.approx(float(expected[0]), abs=1e-6)
    assert [each.token for each in told.top] == [1, 3, 4]
    assert [each.logprob for each in told.top] == pytest.approx(expected[[1, 3, 4]].tolist(), abs=1e-6)


def test_log_probabilities_come_only_to_those_who_ask():
    assert draw(sampler()) == Token(1)
    told = draw(sampler(top_logprobs=0))
    assert (told.id, told.top) == (1, ())
    assert told.logprob == pytest.approx(float(ROW.log_softmax(0)[1]), abs=1e-6)


def test_log_probabilities_of_a_large_vocabulary_are_exact():
    row = torch.randn(131_072, generator=torch.Generator().manual_seed(0)) * 3
    told, expected = with_logprobs(77, row.numpy(), 20), row.double().log_softmax(0)
    assert told.logprob == pytest.approx(float(expected[77]), abs=1e-6)
    values, ids = expected.topk(20)
    assert [each.token for each in told.top] == ids.tolist()
    assert [each.logprob for each in told.top] == pytest.approx(values.tolist(), abs=1e-6)


def test_what_can_never_come_has_a_finite_log_probability():
    row = np.array([-math.inf, 0.0, 0.0], np.float32)
    told = with_logprobs(0, row, 3)
    assert told.logprob == LEAST
    assert [each.token for each in told.top] == [1, 2]
