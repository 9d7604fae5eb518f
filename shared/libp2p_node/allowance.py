"""How much one neighbour may ask of this node."""

from __future__ import annotations

from collections.abc import Callable


class Allowance:
    """A token bucket for each of those that ask: `burst` at once, `per_s` in the long run."""

    def __init__(self, per_s: float, burst: float, clock: Callable[[], float], capacity: int = 1024) -> None:
        self._per_s = per_s
        self._burst = burst
        self._clock = clock
        self._capacity = capacity
        self._left: dict[str, tuple[float, float]] = {}  # tokens left, and when; longest unused first

    def take(self, who: str) -> bool:
        """Use one token of `who`; False when none is left."""
        now = self._clock()
        left, since = self._left.pop(who, (self._burst, now))
        left = min(self._burst, left + (now - since) * self._per_s)
        granted = left >= 1
        if len(self._left) >= self._capacity:
            del self._left[next(iter(self._left))]
        self._left[who] = (left - granted, now)
        return granted
