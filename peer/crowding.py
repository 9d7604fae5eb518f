"""Whether this machine's cores are short because of other programs, such as other peers of the same volunteer."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import psutil

SAMPLE_S = 0.25
_BUSY = 0.75  # of all cores, from which on whoever starts to compute takes a core from somebody
_OTHERS = 0.35  # of all cores, taken by other programs
_STAYS = 0.7  # of both limits, below which a machine is no longer taken for crowded: waiting itself frees some time


@dataclass(frozen=True, slots=True)
class Usage:
    """Seconds by a monotonic clock, and seconds of core time that all programs, and this one, have used until then."""

    at: float
    all_s: float
    own_s: float

    @classmethod
    def now(cls) -> Usage:
        times, own = psutil.cpu_times(), psutil.Process().cpu_times()
        all_s = sum(times) - times.idle - getattr(times, "iowait", 0.0)
        return cls(time.monotonic(), all_s, own.user + own.system)


class Crowding:
    """Looks at the use of the cores over the last quarter of a second or more, when asked."""

    def __init__(self, usage: Callable[[], Usage], cores: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._usage = usage
        self._cores = cores
        self._last = usage()
        self._crowded = False

    def __call__(self) -> bool:
        """True when the cores are busy, and other programs have a good part in that."""
        if self._clock() - self._last.at < SAMPLE_S:
            return self._crowded
        now, before = self._usage(), self._last
        cores_s = self._cores * (now.at - before.at) * (_STAYS if self._crowded else 1)
        self._crowded = crowded(now.all_s - before.all_s, now.own_s - before.own_s, cores_s)
        self._last = now
        return self._crowded


def crowded(all_s: float, own_s: float, cores_s: float) -> bool:
    """Of `cores_s` seconds that the cores had, all programs used `all_s` and this one `own_s`. Pure."""
    return all_s > _BUSY * cores_s and all_s - own_s > _OTHERS * cores_s
