"""When a node announces itself: at once when it comes online or goes, soon after other changes, and again and again."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from shared.announcement import TTL_LIMIT_S, Announcement, seal
from shared.errors import CorollaError
from shared.identity import Identity

logger = logging.getLogger(__name__)

SOONEST_S = 2.0
PERIODS_ALIVE = 3


class Announcer:
    """Makes the records of one node while `run` runs, and hands them to `publish`."""

    def __init__(
        self, identity: Identity, sequence_file: Path, period_s: Callable[[], float], publish: Callable[[bytes], None]
    ) -> None:
        self._identity = identity
        self._sequence_file = sequence_file
        self._sequence = _stored(sequence_file)
        self._period_s = period_s
        self._publish = publish
        self._fields: dict[str, Any] = {}
        self._announced: Announcement | None = None
        self._announced_at = 0.0
        self._due = False
        self._news = asyncio.Event()
        self.record: bytes | None = None
        """The newest, for whoever comes later."""

    def announce(self, **fields: Any) -> None:
        """Say this from now on (fields of Announcement); what was said before and is not said anew stays.

        Raises CorollaError for what cannot be announced.
        """
        fields = {"state": "online", **self._fields, **fields}
        urgent = not self._announced or (fields["state"] == "online" and self._announced.state != "online")
        self._fields = fields
        if urgent:
            self.announce_now()
        else:
            self._due = True
            self._news.set()

    def goodbye(self) -> None:
        """The last announcement, if there was a first."""
        if self._announced and self._announced.state != "gone":
            self._fields["state"] = "gone"
            self.announce_now()

    async def run(self) -> None:
        """Announce again whenever it is time."""
        while True:
            try:
                async with asyncio.timeout(self._wait_s()):  # wait_for could swallow a cancellation at news
                    await self._news.wait()
                self._news.clear()
            except TimeoutError:
                self.announce_now()

    def announce_now(self) -> None:
        """Seal what is to be said with a new sequence number, and publish it. Raises CorollaError."""
        period_s = self._period_s()
        self._sequence = max(self._sequence + 1, time.time_ns() // 1000)
        try:
            announcement = Announcement(
                peer=self._identity.peer,
                sequence=self._sequence,
                issued_at=time.time(),
                ttl_s=min(PERIODS_ALIVE * period_s, TTL_LIMIT_S),
                **self._fields,
            )
        except ValueError as error:
            raise CorollaError(f"this node cannot be announced: {error}") from error
        self.record = seal(announcement, self._identity)
        self._announced, self._announced_at, self._due = announcement, time.monotonic(), False
        self._news.set()  # `run` waits for the next one from now on
        self._store()
        self._publish(self.record)

    def _wait_s(self) -> float | None:
        """Seconds until the next announcement; None before the first and after the last."""
        if not self._announced or self._announced.state == "gone":
            return None
        interval_s = SOONEST_S if self._due else self._period_s()
        return max(0.0, self._announced_at + interval_s - time.monotonic())

    def _store(self) -> None:
        try:
            self._sequence_file.parent.mkdir(parents=True, exist_ok=True)
            self._sequence_file.write_text(str(self._sequence))
        except OSError as error:
            logger.warning("%s cannot be written (%s)", self._sequence_file, error.strerror)


def _stored(path: Path) -> int:
    """The sequence number of the last announcement, so that a clock that went back does not silence the node."""
    try:
        text = path.read_text()
    except OSError:
        return 0
    return int(text) if text.isdecimal() and len(text) < 19 else 0
