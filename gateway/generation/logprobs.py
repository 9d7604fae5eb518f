"""Log probabilities of tokens, as the model itself has them."""

from __future__ import annotations

import math

import numpy as np

from gateway.generation.sampling import Row, best_ids
from gateway.generation.tokens import Likelihood, Token

LEAST = -9999.0
"""Told instead of what is lower, as OpenAI has it for what is very unlikely: JSON has no infinity."""


def with_logprobs(token: int, row: Row, top: int) -> Token:
    """The token, with its natural log probability and the `top` likeliest, from the model's logits (vocabulary,)."""
    best = row.max()
    total = float(best) + math.log(float(np.exp(row - best).sum(dtype=np.float64)))  # of 131,072 exact to 1e-8
    likeliest = best_ids(row, top).tolist() if top else []
    return Token(
        token, _logprob(row, token, total), tuple(Likelihood(each, _logprob(row, each, total)) for each in likeliest)
    )


def _logprob(row: Row, token: int, total: float) -> float:
    return max(float(row[token]) - total, LEAST)
