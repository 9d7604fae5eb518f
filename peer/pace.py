"""How fast a peer's forwards are, as measured: what decides how much of a prompt may join a decode step."""

from __future__ import annotations

import time

import torch

from peer.model.blocks import Blocks
from peer.model.cache import SessionCache

PREFILL_S = 0.05
"""Seconds that a prompt may add to a forward, where a decode step takes less."""

REBUILD_S = 0.25
"""The same where nobody waits for anything but a cache that is built anew: larger forwards take less for a token."""

_PROMPT_TOKENS = 64
_PROMPTS, _STEPS = 4, 9
_WEIGHT = 0.2  # of the newest forward in the running means
_WEIGHT_OF_SLOWER = 0.03  # a forward that took longer than predicted was mostly only disturbed


class Pace:
    """Predicts forwards from what was measured at the start and from how those since compare with it.

    At the start, what a token of a prompt adds is told apart from what every forward costs. Later slices are all of
    about one size, which cannot tell the two apart; so from then on only their common slowness is followed.
    """

    def __init__(self, decode_s: float, token_s: float) -> None:
        """Seconds of a forward with one token, and seconds that each further one adds."""
        self.decode_s = decode_s
        """Running mean of the forwards that only decode."""
        self._start_s = decode_s
        self._token_s = token_s
        self._slowness = 1.0

    @property
    def token_s(self) -> float:
        """Seconds that a token of a prompt adds to a forward now."""
        return self._slowness * self._token_s

    def prefill_tokens(self, at_least_s: float = PREFILL_S) -> int:
        """Prompt tokens for one forward: predicted to add as long as a decode step or `at_least_s`, at least one."""
        return max(1, int(max(self.decode_s, at_least_s) / self.token_s))

    def observe(self, tokens: int, prefill_tokens: int, seconds: float) -> None:
        """A forward with so many tokens, some of which were a prompt's, has taken `seconds`."""
        if prefill_tokens:
            slowness = seconds / (self._start_s + self._token_s * tokens)
            weight = _WEIGHT if slowness < self._slowness else _WEIGHT_OF_SLOWER
            self._slowness += weight * (slowness - self._slowness)
        else:
            self.decode_s += _WEIGHT * (seconds - self.decode_s)


def measure_pace(blocks: Blocks) -> Pace:
    """Run prompts and steps of one session through these blocks; of each the fastest, as others may be disturbed."""
    cache = blocks.new_cache(blocks.range, _PROMPT_TOKENS + 1)
    prompt = torch.zeros(_PROMPT_TOKENS, blocks.hidden_size)
    prefill_s = min(_timed(blocks, prompt, cache, 0) for _ in range(_PROMPTS))
    decode_s = min(_timed(blocks, prompt[:1], cache, _PROMPT_TOKENS) for _ in range(_STEPS))
    return Pace(decode_s, max(prefill_s - decode_s, prefill_s / 10) / _PROMPT_TOKENS)


def _timed(blocks: Blocks, hidden: torch.Tensor, cache: SessionCache, position: int) -> float:
    started = time.perf_counter()
    blocks.forward(hidden, cache, position).cpu()
    return time.perf_counter() - started
