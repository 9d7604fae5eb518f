"""The teacher: right answers pass, and one wrong token does not."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from benchmarks.teacher import EPSILON, Teacher, judge
from gateway.generation.sampling import SamplingParams, sample_rows
from tests.gateway.local_engine import LocalEngine
from tests.tiny_models import make_tiny_model

PROMPT = list(b"Tell me about petals.")
GREEDY = SamplingParams(temperature=0, top_p=1, top_k=0, seed=0, max_tokens=48, stop_ids=frozenset())
WARM = replace(GREEDY, temperature=1.0, seed=7)
WAYS = [GREEDY, WARM, replace(WARM, temperature=0.3), replace(WARM, top_p=0.7), replace(WARM, top_k=5, top_p=0.9)]
ROWS = 6000


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_model(tmp_path_factory.mktemp("model"), blocks=2)


async def answer(directory: Path, params: SamplingParams) -> list[int]:
    return [token.id async for token in LocalEngine.load(directory).generate(PROMPT, params)]


def logits(rows: int) -> torch.Tensor:
    return torch.randn(rows, 64, generator=torch.Generator().manual_seed(3))


@pytest.mark.parametrize("params", WAYS)
async def test_what_the_model_says_token_by_token_is_right(directory: Path, params: SamplingParams) -> None:
    verdict = Teacher(directory).judge(PROMPT, await answer(directory, params), params)
    assert len(verdict.gaps) == 48
    assert verdict.worst < EPSILON
    assert verdict.wrong == 0


@pytest.mark.parametrize("params", WAYS)
async def test_one_token_that_differs_is_found(directory: Path, params: SamplingParams) -> None:
    ids = await answer(directory, params)
    ids[20] = (ids[20] + 1) % 256
    verdict = Teacher(directory).judge(PROMPT, ids, params)
    assert verdict.gaps[20] > EPSILON
    assert set(verdict.gaps[:20]) == {0.0}


async def test_a_token_that_is_repeated_or_lost_is_found(directory: Path) -> None:
    ids = await answer(directory, WARM)
    teacher = Teacher(directory)
    assert teacher.judge(PROMPT, ids[:30] + ids[29:], WARM).wrong
    assert teacher.judge(PROMPT, ids[:30] + ids[31:], WARM).wrong


async def test_another_seed_than_was_asked_for_is_found(directory: Path) -> None:
    ids = await answer(directory, WARM)
    assert Teacher(directory).judge(PROMPT, ids, replace(WARM, seed=8)).wrong > 10


@pytest.mark.parametrize("params", WAYS)
def test_logits_that_are_off_by_rounding_never_make_a_token_wrong(params: SamplingParams) -> None:
    """Draws from logits half of the tolerance off, at so many positions that some do part."""
    exact = logits(ROWS)
    shift = (torch.rand(exact.shape, generator=torch.Generator().manual_seed(5)) - 0.5) * EPSILON * 0.99
    positions = list(range(ROWS))
    drawn = sample_rows(exact + shift, [params] * ROWS, positions)
    assert drawn != sample_rows(exact, [params] * ROWS, positions)
    assert judge(exact, drawn, params, 0).wrong == 0


@pytest.mark.parametrize("params", WAYS)
def test_logits_that_are_off_by_more_are_found(params: SamplingParams) -> None:
    exact = logits(ROWS // 10)
    shift = torch.randn(exact.shape, generator=torch.Generator().manual_seed(4)) * EPSILON * 100
    drawn = sample_rows(exact + shift, [params] * len(exact), list(range(len(exact))))
    assert judge(exact, drawn, params, 0).wrong > len(exact) / 200


def test_the_margin_says_how_close_the_second_is() -> None:
    rows = torch.tensor([[1.0, 0.25, 0.0], [0.0, 3.0, 2.875]])
    assert judge(rows, [0, 1], GREEDY, 0).margin == 0.125


def test_a_token_outside_of_the_nucleus_is_infinitely_wrong() -> None:
    rows = torch.tensor([[9.0, 0.0, -1.0]])
    assert judge(rows, [2], replace(WARM, top_p=0.9), 0).worst == float("inf")
    assert judge(rows, [2], replace(WARM, top_k=2), 0).worst == float("inf")
