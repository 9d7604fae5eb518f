"""The sampler: what it draws, and what its noise depends on."""

from __future__ import annotations

import time

import numpy as np
import pytest
import torch

from gateway.generation.sampling import SamplingParams, sample_rows
from tests.gateway.generation.draws import gumbel_noise, sample


def params(
    temperature: float = 1.0, top_p: float = 1.0, top_k: int = 0, seed: int = 1, choice: int = 0, min_p: float = 0
) -> SamplingParams:
    return SamplingParams(temperature, top_p, top_k, seed, 1, frozenset(), choice=choice, min_p=min_p)


def draws(logits: torch.Tensor, asked: SamplingParams, count: int) -> np.ndarray:
    """How often each id comes, over `count` positions."""
    return np.bincount([sample(logits, asked, position) for position in range(count)], minlength=len(logits))


@pytest.fixture
def logits() -> torch.Tensor:
    return torch.log(torch.tensor([0.05, 0.4, 0.1, 0.3, 0.15]))


def chi_square(counts: np.ndarray, probabilities: np.ndarray) -> float:
    expected = probabilities * counts.sum()
    return float(((counts - expected) ** 2 / expected).sum())


def test_temperature_zero_takes_the_first_of_equal_best():
    assert sample(torch.tensor([0.0, 2.0, 1.0, 2.0]), params(temperature=0), 7) == 1


def test_noise_depends_on_seed_choice_and_position_alone():
    same = gumbel_noise(1000, 1, 2, 3)
    torch.rand(5)  # the state of other generators does not matter
    np.random.rand(5)
    assert np.array_equal(same, gumbel_noise(1000, 1, 2, 3))
    others = [gumbel_noise(1000, *place) for place in ((2, 2, 3), (1, 3, 3), (1, 2, 4))]
    assert all(abs(np.corrcoef(same, other)[0, 1]) < 0.15 for other in others)


ALL_KINDS = [
    *(params(), params(0.4), params(2.0), params(top_p=0.8), params(top_k=30), params(min_p=0.1)),
    *(params(0.7, min_p=0.02), params(top_k=30, min_p=0.2), params(top_p=0.9, min_p=0.3), params(1.5, 0.95, 40)),
]


@pytest.mark.parametrize("asked", ALL_KINDS)
@pytest.mark.parametrize("width", [0.1, 3.0, 12.0])
def test_a_draw_is_the_best_sum_of_score_and_noise_among_all_that_are_kept(asked: SamplingParams, width: float):
    """Few logarithms are taken: those left out could not have won."""
    for position in range(100):
        logits = torch.randn(2000, generator=torch.Generator().manual_seed(position)) * width
        scores = logits.double().numpy() / asked.temperature
        order = np.argsort(-scores)[: asked.top_k or 2000]
        weights = np.exp(scores[order] - scores.max())
        nucleus = np.searchsorted(weights.cumsum(), asked.top_p * weights.sum()) + 1 if asked.top_p < 1 else 2000
        kept = order[:nucleus]
        kept = kept[np.exp(scores[kept] - scores.max()) >= asked.min_p]
        sums = scores[kept] + gumbel_noise(2000, asked.seed, asked.choice, position)[kept]
        assert sample(logits, asked, position) == kept[sums.argmax()]


def test_rows_that_are_sampled_together_get_what_each_gets_alone():
    logits = torch.randn(12, 500, generator=torch.Generator().manual_seed(0)) * 3
    asked = [params(0), params(), params(0.7, top_p=0.9), params(1.3, top_k=5), params(seed=9), params(choice=2)] * 2
    together = sample_rows(logits, asked, range(12))
    assert together == [sample(row, each, place) for place, (row, each) in enumerate(zip(logits, asked, strict=True))]
    assert len(set(together)) > 6


def test_of_equal_scores_the_lowest_ids_are_kept():
    logits = torch.tensor([0.0, 1.0, 1.0, 1.0, -1.0])
    assert set(np.flatnonzero(draws(logits, params(top_k=2), 200))) == {1, 2}
    assert set(np.flatnonzero(draws(logits, params(top_p=0.4), 200))) == {1, 2}


def test_noise_is_standard_gumbel():
    noise = gumbel_noise(400_000, 5, 0, 0)
    assert np.isfinite(noise).all()
    assert float(noise.mean()) == pytest.approx(0.5772, abs=0.01)
    assert float(noise.var()) == pytest.approx(np.pi**2 / 6, rel=0.02)


def test_noise_never_changes_between_versions():
    expected = [1.4293186522209826, 1.354129322632234, -1.1355465611455253]
    assert gumbel_noise(3, 42, 0, 17).tolist() == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("seed", [-1, -(2**63), 2**63, 2**64 - 1, 0])
def test_any_64_bit_seed_will_do(seed: int, logits: torch.Tensor):
    assert 0 <= sample(logits, params(seed=seed), 2**40) < 5


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_draws_follow_the_softmax(logits: torch.Tensor, temperature: float):
    counts = draws(logits, params(temperature), 6000)
    expected = torch.softmax(logits.double() / temperature, 0).numpy()
    assert chi_square(counts, expected) < 18.5  # p = 0.001 with 4 degrees of freedom


def test_top_k_leaves_the_best_in_proportion(logits: torch.Tensor):
    counts = draws(logits, params(top_k=2), 3000)
    assert set(np.flatnonzero(counts)) == {1, 3}
    assert chi_square(counts[[1, 3]], np.array([4 / 7, 3 / 7])) < 10.8


@pytest.mark.parametrize(
    ("top_p", "kept"),
    [(0.3, {1}), (0.41, {1, 3}), (0.69, {1, 3}), (0.71, {1, 3, 4}), (0.99, {0, 1, 2, 3, 4}), (1e-9, {1})],
)
def test_top_p_leaves_the_fewest_that_reach_it(logits: torch.Tensor, top_p: float, kept: set[int]):
    assert set(np.flatnonzero(draws(logits, params(top_p=top_p), 600))) == kept


def test_top_p_counts_what_top_k_has_left(logits: torch.Tensor):
    assert set(np.flatnonzero(draws(logits, params(top_p=0.6, top_k=2), 300))) == {1, 3}
    assert set(np.flatnonzero(draws(logits, params(top_p=0.5, top_k=2), 300))) == {1}


@pytest.mark.parametrize(
    ("asked", "kept"),
    [
        (params(min_p=1.0), {1}),
        (params(min_p=0.7), {1, 3}),
        (params(min_p=0.3), {1, 3, 4}),
        (params(2.0, min_p=0.55), {1, 3, 4}),
        (params(min_p=0.2, top_k=2), {1, 3}),
        (params(min_p=0.7, top_p=0.99), {1, 3}),
        (params(min_p=1e-9), {0, 1, 2, 3, 4}),
    ],
)
def test_min_p_leaves_what_is_so_probable_beside_the_best(logits: torch.Tensor, asked: SamplingParams, kept: set[int]):
    assert set(np.flatnonzero(draws(logits, asked, 600))) == kept


def test_top_p_of_a_flat_distribution_reaches_beyond_the_first_candidates():
    flat = torch.zeros(20_000)
    assert max(sample(flat, params(top_p=0.9), position) for position in range(50)) > 8192


def test_a_filter_that_leaves_everything_changes_no_draw(logits: torch.Tensor):
    plain = [sample(logits, params(), position) for position in range(200)]
    assert [sample(logits, params(top_k=5), position) for position in range(200)] == plain
    assert [sample(logits, params(top_p=0.9999999), position) for position in range(200)] == plain


def test_a_tiny_temperature_is_greedy_and_masked_ids_never_come(logits: torch.Tensor):
    assert sample(logits, params(temperature=1e-300), 0) == 1
    masked = torch.full((100,), -torch.inf)
    masked[42] = -5.0
    assert {sample(masked, params(), position) for position in range(50)} == {42}


@pytest.mark.parametrize("asked", [params(), params(top_p=0.95), params(top_k=50)])
def test_a_large_vocabulary_takes_a_few_milliseconds(asked: SamplingParams):
    torch.set_num_threads(1)
    logits = torch.randn(131_072, generator=torch.Generator().manual_seed(0)) * 3
    times = []
    for position in range(5):
        start = time.perf_counter()
        sample(logits, asked, position)
        times.append(time.perf_counter() - start)
    assert min(times) < 0.05  # measured: 2 to 4 ms
