"""Who broke the rules and is left alone for a while: longer each time, forgotten after good conduct."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass

logger = logging.getLogger(__name__)

FIRST_S = 5.0
LONGEST_S = 600.0
GOOD_CONDUCT_S = 3600.0
"""After so long without an offence nothing is held against anybody."""
CAPACITY = 4096
SLIPS = 3
"""So many times what may be nobody's fault happens before it is held against somebody."""
SLIP_S = 5.0
"""Slips within this time of the one before are one event: many sessions may tell of it."""
SLIPS_FORGOTTEN_S = 600.0


@dataclass(slots=True)
class _Record:
    offences: int = 0
    until: float = 0.0  # shunned
    slips: int = 0
    slipped_at: float = float("-inf")


class Shunned:
    """Nodes, or addresses, that are shunned now; the first offence costs 5 s, each further one twice the time before.

    Whoever is shunned already is not shunned for longer: one fault may show in many sessions at once. Of more than
    `capacity` offenders those whose last offence is longest ago are forgotten.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic, capacity: int = CAPACITY) -> None:
        self._clock = clock
        self._capacity = capacity
        self._records: dict[str, _Record] = {}  # longest untouched first

    def __contains__(self, who: str) -> bool:
        return self.seconds(who) > 0

    def __len__(self) -> int:
        return len(self._records)

    def seconds(self, who: str) -> float:
        """For how long `who` is shunned from now on, 0 for nobody who is."""
        record = self._records.get(who)
        return max(0.0, record.until - self._clock()) if record else 0.0

    def offends(self, who: str, reason: str) -> None:
        """Shun `who`, and say so once."""
        if who in self:
            return
        record = self._touch(who)
        seconds = min(FIRST_S * 2**record.offences, LONGEST_S)
        record.offences, record.slips = record.offences + 1, 0
        record.until = self._clock() + seconds
        logger.warning("%s is shunned for %.0f s: %s", who, seconds, reason)

    def slips(self, who: str, reason: str) -> None:
        """Something went wrong that may be nobody's fault: only when it happens again and again it is an offence."""
        if who in self:
            return
        record, now = self._touch(who), self._clock()
        since_s = now - record.slipped_at
        if since_s < SLIP_S:
            return
        record.slips, record.slipped_at = 1 if since_s > SLIPS_FORGOTTEN_S else record.slips + 1, now
        if record.slips >= SLIPS:
            self.offends(who, f"{reason} (again and again)")

    def _touch(self, who: str) -> _Record:
        """The record of `who`, a clean one after good conduct; it becomes the one that is forgotten last."""
        record = self._records.pop(who, None)
        if record is None or self._clock() - max(record.until, record.slipped_at) > GOOD_CONDUCT_S:
            record = _Record()
        if len(self._records) >= self._capacity:
            del self._records[next(iter(self._records))]
        self._records[who] = record
        return record
