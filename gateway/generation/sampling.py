"""From logits to token ids. Knows nothing of sessions, text or other nodes.

A token is drawn by the Gumbel-max trick: the arg max of log p(i) + g(i), where the g(i) are standard Gumbel noise, is
distributed as p. The noise is a pure function of (seed, choice, position), made by a counter-based generator
(Philox: Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011), so a replay, another batch or
speculation never shifts it.

All in numpy: on a CPU its arg max takes a tenth of the time of torch's, and a draw is a few passes over one row.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import torch

from gateway.generation.grammar import Grammar

Ids = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
Row = npt.NDArray[np.float32]

_WORD = 2**64 - 1
_LIKELY = 4.0  # below the best score by more than this, a token wins only with noise that one in 50 gets
_REACHES = (3.0, 8.0)  # how far below the best score a nucleus may reach, tried in turn: sorting few is cheap


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """How one choice of one request is sampled, and where it ends.

    `temperature` 0 is greedy; `top_p` 1, `top_k` 0 and `min_p` 0 are off; `seed` is any integer, of which 64 bits
    count; `stop_ids` end the sequence, not among its first `min_tokens`, and `max_tokens` (at least 1) bounds it.
    `presence_penalty` and `frequency_penalty` count the tokens of the answer, as OpenAI has it; `repetition_penalty`
    those of the prompt too (Keskar et al., 2019). `logit_bias` is added to the logits of token ids. `top_logprobs` is
    how many of the likeliest tokens are told with each token, None for no probabilities at all. A `grammar` says which
    tokens may come; `stop_ids` then hold those by which it ends.
    """

    temperature: float
    top_p: float
    top_k: int
    seed: int
    max_tokens: int
    stop_ids: frozenset[int]
    choice: int = 0
    min_p: float = 0.0
    min_tokens: int = 0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repetition_penalty: float = 1.0
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    top_logprobs: int | None = None
    grammar: Grammar | None = None


def sample_rows(logits: torch.Tensor, params: Sequence[SamplingParams], positions: Sequence[int]) -> list[int]:
    """A token id for each row's position, from finite (or -inf) float32 logits of shape (rows, vocabulary).

    What a row gets does not depend on the others.
    """
    rows = logits.cpu().numpy()
    best = rows.argmax(axis=1).tolist()  # the first of equals
    return [
        draw(row, first, each, position)
        for row, first, each, position in zip(rows, best, params, positions, strict=True)
    ]


def draw(row: Row, best: int, params: SamplingParams, position: int) -> int:
    """A token id for `position`, from logits (vocabulary,) of which `best` is the arg max; what lies at -inf never."""
    return best if params.temperature == 0 else _draw(row, best, params, position)


def best_ids(row: Row, count: int) -> Ids:
    """The `count` best of a row, or all that are not -inf, best first and lowest id first among equals."""
    least = float(torch.topk(torch.from_numpy(row), min(count, len(row))).values[-1])
    ids = np.flatnonzero(row >= least if least > -np.inf else row > least)
    return ids[np.argsort(-row[ids], kind="stable")][:count]


def _random_words(vocabulary: int, seed: int, choice: int, position: int) -> npt.NDArray[np.uint64]:
    # The lowest counter word numbers the blocks of one vector, the others say whose vector it is: none overlap.
    generator = np.random.Philox(key=seed & _WORD, counter=[0, position & _WORD, choice & _WORD, 0])
    return generator.random_raw(vocabulary)


def _gumbel(words: npt.NDArray[np.uint64]) -> Floats:
    """The smaller a word, the larger its noise."""
    uniform = ((words >> np.uint64(11)).astype(np.float64) + 0.5) * 2.0**-53  # never 0
    with np.errstate(divide="ignore"):  # one word in 2**53 rounds up to 1: its noise is -inf
        return -np.log(-np.log1p(-uniform))


def _draw(row: Row, best: int, params: SamplingParams, position: int) -> int:
    """One token id, by noise, from logits (vocabulary,) of which `best` is the arg max."""
    kept = _keep_top_p(_keep_top_k(row, params.top_k), row, best, params)
    kept = _keep_min_p(kept, row, best, params)
    if kept is not None and len(kept) == 1:
        return int(kept[0])
    words = _random_words(len(row), params.seed, params.choice, position)
    if kept is None:
        return _draw_of_all(row, best, params.temperature, words)
    return _winner(kept, row, best, params.temperature, words)[0]


def _draw_of_all(row: Row, best: int, temperature: float, words: npt.NDArray[np.uint64]) -> int:
    """The arg max of score and noise over the whole vocabulary, but logarithms only of those that can win.

    With value w the best of the likely ones, another needs noise above w + _LIKELY. Noise -log(-log(1 - u)) is above
    g only if u < exp(-g), which its random word shows.
    """
    likely = np.flatnonzero(row >= float(row[best]) - _LIKELY * temperature)
    winner, value = _winner(likely, row, best, temperature, words)
    bound = math.exp(min(0.0, -value - _LIKELY)) * 2.0**64 * (1 + 1e-9) + 2.0**12  # never too low by rounding
    rare = np.flatnonzero(words < np.uint64(min(int(bound), _WORD)))
    if not len(rare):
        return winner
    other, noisy = _winner(rare, row, best, temperature, words)
    return other if noisy > value else winner


def _winner(ids: Ids, row: Row, best: int, temperature: float, words: npt.NDArray[np.uint64]) -> tuple[int, float]:
    """Which of `ids` has the greatest sum of score and noise, and that sum."""
    values = _scores(row[ids], row[best], temperature) + _gumbel(words[ids])
    place = int(values.argmax())
    return int(ids[place]), float(values[place])


def _scores(logits: Row, top: np.float32, temperature: float) -> Floats:
    """Log probabilities but for a constant, 0 for the best; float64, since a tiny temperature must not overflow."""
    with np.errstate(over="ignore"):  # to -inf
        return (logits.astype(np.float64) - float(top)) / temperature


def _keep_top_k(row: Row, top_k: int) -> Ids | None:
    """The `top_k` best; None where nothing is taken away."""
    return best_ids(row, top_k) if 0 < top_k < len(row) else None


def _keep_top_p(ids: Ids | None, row: Row, best: int, params: SamplingParams) -> Ids | None:
    """The fewest best of `ids` whose probabilities add up to `top_p`, never none (Holtzman et al., 2020)."""
    if params.top_p >= 1:
        return ids
    scores = _scores(row if ids is None else row[ids], row[best], params.temperature)
    weights = np.exp(scores)
    wanted = params.top_p * float(weights.sum())
    near = _nearest(scores, weights, wanted)
    near = near[np.argsort(-scores[near], kind="stable")]
    count = int((weights[near].cumsum() < wanted).sum()) + 1
    return near[:count] if ids is None else ids[near[:count]]


def _keep_min_p(ids: Ids | None, row: Row, best: int, params: SamplingParams) -> Ids | None:
    """Those of `ids` that are at least `min_p` times as probable as the best (Nguyen et al., 2024), never none."""
    if params.min_p <= 0:
        return ids
    least = float(row[best]) + params.temperature * math.log(params.min_p)
    return np.flatnonzero(row >= least) if ids is None else ids[row[ids] >= least]


def _nearest(scores: Floats, weights: Floats, wanted: float) -> Ids:
    """Places of the best scores, which weigh `wanted` together: few, where few do."""
    for reach in _REACHES:
        near = np.flatnonzero(scores >= -reach)
        if weights[near].sum() >= wanted:
            return near
    return np.arange(len(scores))
