"""Whether this machine's cores are short because of other programs, such as other peers of the same volunteer."""

from __future__ import annotations

import os
from collections.abc import Callable

import psutil

SAMPLE_S = 0.25
_BUSY = 0.75  # of all cores, from which on whoever starts to compute takes a core from somebody
_OTHERS = 0.35  # of all cores, taken by other programs
_STAYS = 0.7  # of both limits, below which a machine is no longer taken for crowded: waiting itself frees some time


class Crowding:
    """Looks at the use of the cores over the last quarter of a second or more, when asked."""

    def __init__(self, now: Callable[[], float]) -> None:
        """`now` is a monotonic clock, in seconds."""
        self._now = now
        self._cores = os.cpu_count() or 1
        self._process = psutil.Process()
        self._sampled_at, self._all_s, self._own_s = now(), *self._used()
        self._crowded = False

    def __call__(self) -> bool:
        """True when the cores are busy, and other programs have a good part in that."""
        elapsed = self._now() - self._sampled_at
        if elapsed >= SAMPLE_S:
            all_s, own_s = self._used()
            cores_s = self._cores * elapsed * (_STAYS if self._crowded else 1)
            self._crowded = crowded(all_s - self._all_s, own_s - self._own_s, cores_s)
            self._sampled_at, self._all_s, self._own_s = self._now(), all_s, own_s
        return self._crowded

    def _used(self) -> tuple[float, float]:
        """Seconds of core time that all programs, and this one, have used so far."""
        times, own = psutil.cpu_times(), self._process.cpu_times()
        return sum(times) - times.idle - getattr(times, "iowait", 0.0), own.user + own.system


def crowded(all_s: float, own_s: float, cores_s: float) -> bool:
    """Of `cores_s` seconds that the cores had, all programs used `all_s` and this one `own_s`. Pure."""
    return all_s > _BUSY * cores_s and all_s - own_s > _OTHERS * cores_s
