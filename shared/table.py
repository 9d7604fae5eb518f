"""The table: one node's view of all live announcements. Pure: records and times are passed in.

What bounds it: at most `CAPACITY` live entries, of which one source (the neighbour that told of them first) fills at
most `SOURCE_CAPACITY`, so that no single neighbour can crowd out what others tell. A full table refuses newcomers; it
never evicts. The highest sequence number of a peer is remembered beyond goodbye and expiry, for as long as an older
record of it could still be accepted, so that nothing can be replayed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

from shared.announcement import CLOCK_SKEW_S, Announcement
from shared.errors import VersionMismatch
from shared.types import PeerId

CAPACITY = 4096
SOURCE_CAPACITY = 2048
MEMORY_S = 2 * CLOCK_SKEW_S
"""A record issued at the far end of the accepted clock skew could be replayed for this long."""
MEMORY_CAPACITY = 4 * CAPACITY


@dataclass(frozen=True, slots=True)
class Joined:
    """A peer has come to live in the table."""

    announcement: Announcement


@dataclass(frozen=True, slots=True)
class Updated:
    """A live peer announces something newer, or itself once more."""

    announcement: Announcement


@dataclass(frozen=True, slots=True)
class Left:
    """A peer is no longer live: it said goodbye, expired, or its link was lost."""

    announcement: Announcement
    reason: str


Change = Joined | Updated | Left


@dataclass(frozen=True, slots=True)
class _Entry:
    record: bytes
    announcement: Announcement
    received_at: float
    expires_at: float
    source: str


class Table:
    """Announcements of one swarm by peer. All times are seconds of one monotonic clock, the caller's."""

    def __init__(self, swarm: str, capacity: int = CAPACITY, source_capacity: int = SOURCE_CAPACITY) -> None:
        self._swarm = swarm
        self._capacity = capacity
        self._source_capacity = source_capacity
        self._entries: dict[PeerId, _Entry] = {}
        self._sources: Counter[str] = Counter()
        self._sequences: dict[PeerId, tuple[int, float]] = {}  # highest sequence, and when it came; oldest first

    def __iter__(self) -> Iterator[Announcement]:
        """All live announcements, as they are now."""
        return iter([entry.announcement for entry in self._entries.values()])

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, peer: PeerId) -> Announcement | None:
        entry = self._entries.get(peer)
        return entry.announcement if entry else None

    def sequence(self, peer: PeerId) -> int:
        """The highest sequence number accepted from `peer`, -1 for none."""
        return self._sequences.get(peer, (-1, 0.0))[0]

    def accept(
        self, record: bytes, announcement: Announcement, now: float, age_s: float = 0.0, source: str = ""
    ) -> Change | None:
        """Take in what `unseal(record)` gave, told by `source`, who has known it for `age_s`.

        None when it changes nothing: already known, older than what is known, expired on the way, or no room.
        Raises VersionMismatch for another swarm's.
        """
        if announcement.swarm != self._swarm:
            raise VersionMismatch(f"an announcement of the swarm {announcement.swarm!r}, not {self._swarm!r}")
        peer, expires_at = announcement.peer, now + announcement.ttl_s - max(age_s, 0.0)
        if announcement.sequence <= self.sequence(peer) or expires_at <= now:
            return None
        known = self._entries.get(peer)
        source = known.source if known else source
        if not known and announcement.state != "gone" and not self._has_room(source):
            return None
        self._remember(peer, announcement.sequence, now)
        if announcement.state == "gone":
            return self.drop(peer, "said goodbye")
        self._sources[source] += 0 if known else 1
        self._entries[peer] = _Entry(record, announcement, now - max(age_s, 0.0), expires_at, source)
        return Updated(announcement) if known else Joined(announcement)

    def drop(self, peer: PeerId, reason: str) -> Left | None:
        """Forget a peer until it announces something newer."""
        entry = self._entries.pop(peer, None)
        if not entry:
            return None
        self._sources[entry.source] -= 1
        self._sources += Counter()  # drops zeros
        return Left(entry.announcement, reason)

    def expire(self, now: float) -> list[Left]:
        """Drop what has outlived its time."""
        expired = [peer for peer, entry in self._entries.items() if entry.expires_at <= now]
        left = [each for peer in expired if (each := self.drop(peer, "was not heard of any more"))]
        self._forget_old(now)
        return left

    def records(self, now: float) -> list[tuple[PeerId, bytes, float]]:
        """Every live record with its age in seconds, by peer ID, for passing on."""
        live = [(peer, entry) for peer, entry in self._entries.items() if entry.expires_at > now]
        return [(peer, entry.record, now - entry.received_at) for peer, entry in sorted(live, key=lambda each: each[0])]

    def _has_room(self, source: str) -> bool:
        return len(self._entries) < self._capacity and self._sources[source] < self._source_capacity

    def _remember(self, peer: PeerId, sequence: int, now: float) -> None:
        self._sequences.pop(peer, None)
        self._sequences[peer] = (sequence, now)

    def _forget_old(self, now: float) -> None:
        for peer, (_, since) in list(self._sequences.items()):
            if now - since <= MEMORY_S and len(self._sequences) <= MEMORY_CAPACITY:
                return
            if peer not in self._entries:
                del self._sequences[peer]
