"""How long a chain may stand still before its hops are asked why: it follows the pace that was measured. Pure."""

from __future__ import annotations

LEAST_S = 1.0
STEPS = 6  # of the chain's usual steps
_WEIGHT = 0.2  # of the newest step in the running mean


class Patience:
    """Times are seconds of one monotonic clock."""

    def __init__(self) -> None:
        self._moved_at = 0.0
        self._step_s = 0.0
        self._pushed_at: float | None = None

    @property
    def ends_at(self) -> float:
        """When somebody should ask."""
        return self._moved_at + max(LEAST_S, STEPS * self._step_s)

    def moved(self, now: float) -> None:
        """Something came from the chain, went into it, or is waited for from now on."""
        self._moved_at = max(self._moved_at, now)

    def pushed(self, now: float, *, decodes: bool) -> None:
        """A step went in."""
        self.moved(now)
        self._pushed_at = now if decodes else None

    def answered(self, now: float) -> None:
        """What was pushed last has come out."""
        if self._pushed_at is not None:
            self._step_s += (_WEIGHT if self._step_s else 1.0) * (now - self._pushed_at - self._step_s)
