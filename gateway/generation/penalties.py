"""Penalties for tokens that have come before, as OpenAI and Keskar et al. (2019) define them."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from gateway.generation.sampling import Ids, Row, SamplingParams


def penalizes(params: SamplingParams) -> bool:
    """Whether any of them is on."""
    return bool(params.presence_penalty or params.frequency_penalty or params.repetition_penalty != 1)


def penalize(scores: Row, params: SamplingParams, prompt: Ids, answer: Mapping[int, int]) -> None:
    """Changes `scores`, (vocabulary,), in place. `answer` says how often each of its tokens has come.

    The repetition penalty, of prompt and answer, is first, as in vLLM and in transformers: it scales, and the others
    are told in logits.
    """
    ids = np.fromiter(answer, np.int64, len(answer))
    if params.repetition_penalty != 1:
        _penalize_repetition(scores, params.repetition_penalty, prompt, ids)
    counts = np.fromiter(answer.values(), np.float32, len(answer))
    scores[ids] -= params.frequency_penalty * counts + params.presence_penalty


def _penalize_repetition(scores: Row, penalty: float, prompt: Ids, answer: Ids) -> None:
    """Divides what is above 0 and multiplies what is below (CTRL: Keskar et al., 2019), each token once."""
    seen = np.zeros(len(scores), np.bool_)
    seen[prompt] = seen[answer] = True
    ids = np.flatnonzero(seen)
    old = scores[ids]
    scores[ids] = np.where(old > 0, old / penalty, old * penalty)
