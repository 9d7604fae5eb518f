"""Whether an answer's tokens are right: each is scored by a whole float32 model that reads exactly what came before.

Two runs of one model part where two tokens are about as good, and then nothing that follows can be compared. So the
answer itself is forced through the reference, and a token is wrong when its score lies below the best by more than
arithmetic in another order explains.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoModelForCausalLM

from gateway.generation.sampling import Floats, Ids, Row, SamplingParams, _gumbel, _random_words, sample_rows

EPSILON = 1e-3
"""A token whose score is further below the best is wrong, in float32 without quantization; in logits."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """By how much each token's score lies below the best, 0 where the reference chooses the same; in logits.

    `margin` is the least that the reference's own choices are ahead of the next best: below about 1e-4 another order
    of arithmetic may change a token that is right.
    """

    gaps: tuple[float, ...]
    margin: float

    @property
    def worst(self) -> float:
        return max(self.gaps, default=0.0)

    @property
    def wrong(self) -> int:
        return sum(gap > EPSILON for gap in self.gaps)


class Teacher:
    """The whole model of a directory, in float32 and on the CPU."""

    def __init__(self, directory: Path) -> None:
        self._model: Any = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32).eval()

    def judge(self, prompt: Sequence[int], ids: Sequence[int], params: SamplingParams) -> Verdict:
        """An answer's `ids` to a prompt, sampled by `params`, in one forward over both."""
        return judge(self._logits(prompt, ids), ids, params, len(prompt)) if ids else Verdict((), float("inf"))

    @torch.inference_mode()
    def _logits(self, prompt: Sequence[int], ids: Sequence[int]) -> torch.Tensor:
        """What each of `ids` was chosen from, (ids, vocabulary)."""
        whole = torch.tensor([[*prompt, *ids[:-1]]])
        return self._model(input_ids=whole, use_cache=False, logits_to_keep=len(ids)).logits[0].float()


def judge(logits: torch.Tensor, ids: Sequence[int], params: SamplingParams, start: int) -> Verdict:
    """Tokens at positions from `start`, against the float32 logits (ids, vocabulary) that they were chosen from."""
    positions = range(start, start + len(ids))
    chosen = sample_rows(logits, [params] * len(ids), positions)
    gaps, margins = [], []
    for row, token, best, position in zip(logits.numpy(), ids, chosen, positions, strict=True):
        scores = _scores(row, params, position)
        possible, certain = _kept(row, params)
        rivals = possible[possible != best]
        gaps.append(0.0 if token == best else _behind(scores, token, possible, certain))
        margins.append(float(scores[best] - scores[rivals].max()) if best in certain and len(rivals) else 0.0)
    return Verdict(tuple(gaps), max(0.0, min(margins)))


def _behind(scores: Floats, token: int, possible: Ids, certain: Ids) -> float:
    """By how much a token that was not drawn lies below one that could be; infinity where it could never be."""
    return max(0.0, float(scores[certain].max() - scores[token])) if token in possible else float("inf")


def _scores(row: Row, params: SamplingParams, position: int) -> Floats:
    """What a draw compares, in logits: the temperature scales the noise up instead of the logits down."""
    if params.temperature == 0:
        return row.astype(np.float64)
    return row + params.temperature * _gumbel(_random_words(len(row), params.seed, params.choice, position))


def _kept(row: Row, params: SamplingParams) -> tuple[Ids, Ids]:
    """The tokens that `top_k` and `top_p` may leave, and those that they do leave, if no logit is off by EPSILON."""
    if params.temperature == 0 or (params.top_p == 1 and params.top_k == 0):
        return np.arange(len(row)), np.arange(len(row))
    return _kept_within(row, params, EPSILON), _kept_within(row, params, -EPSILON)


def _kept_within(row: Row, params: SamplingParams, slack: float) -> Ids:
    """Tokens that are kept with a logit `slack` higher, among others that are so much lower; always the best."""
    order = np.argsort(-row, kind="stable")
    falling = -row[order].astype(np.float64)
    itself = int(slack < 0)  # it is among those that reach above its own lowered logit
    ahead = np.searchsorted(falling, falling - 2 * slack) - itself
    kept = ahead < (params.top_k or len(row))
    weights = np.exp((falling[0] - falling) / params.temperature) * kept
    before = np.concatenate(([0.0], weights.cumsum()))[ahead + itself] - itself * weights
    if params.top_p < 1:
        kept &= before < params.top_p * weights.sum() * np.exp(4 * slack / params.temperature)
    kept[0] = True
    return order[kept]
