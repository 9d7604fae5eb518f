"""How often something is measured: as often as asked for, as far as the time allows."""

from __future__ import annotations

import time
from collections.abc import Iterator


def turns(rounds: int, limit_s: float) -> Iterator[int]:
    """Numbers of rounds, without those that would end after the limit, going by the ones before; 0 always."""
    started = time.perf_counter()
    for turn in range(rounds):
        spent_s = time.perf_counter() - started
        if turn and spent_s * (turn + 1) / turn > limit_s:
            return
        yield turn
