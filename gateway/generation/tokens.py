"""What the engine yields: tokens, with their probabilities where those are asked for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple


class Likelihood(NamedTuple):
    """A token id and the natural logarithm of its probability."""

    token: int
    logprob: float


@dataclass(frozen=True, slots=True)
class Token:
    """A token of an answer, or of a prompt that is scored.

    The probabilities are those of the model's own logits, before temperature, penalties, biases and grammars:
    `logprob` of this token, None where they were not asked for (or it is the first of a prompt), and `top` of the
    likeliest, best first.
    """

    id: int
    logprob: float | None = None
    top: tuple[Likelihood, ...] = ()


OnOpen = Callable[[str], None]
"""Hears, when the swarm has room for a request, which numerics compute it."""
