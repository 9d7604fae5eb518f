"""Changes of a table, for each of those who follow it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterable

from shared.announcement import Announcement
from shared.table import Change, Joined, Left, Updated
from shared.types import PeerId


class TableChanges:
    """Hands each change to all followers. What a slow one has not read yet is merged: at most one change a peer."""

    def __init__(self, live: Iterable[Announcement]) -> None:
        self._live = live
        self._followers: set[_Unread] = set()

    def tell(self, change: Change) -> None:
        for follower in self._followers:
            follower.add(change)

    async def follow(self) -> AsyncGenerator[Change, None]:
        """First a Joined for each peer that is there, then what changes."""
        unread = _Unread()
        for announcement in self._live:
            unread.add(Joined(announcement))
        self._followers.add(unread)
        try:
            while True:
                yield await unread.next()
        finally:
            self._followers.discard(unread)


class _Unread:
    def __init__(self) -> None:
        self._changes: dict[PeerId, Change] = {}
        self._some = asyncio.Event()

    def add(self, change: Change) -> None:
        peer = change.announcement.peer
        merged = _merge(self._changes.pop(peer, None), change)
        if merged:
            self._changes[peer] = merged
            self._some.set()

    async def next(self) -> Change:
        """The change that has waited longest."""
        while not self._changes:
            self._some.clear()
            await self._some.wait()
        return self._changes.pop(next(iter(self._changes)))


def _merge(earlier: Change | None, later: Change) -> Change | None:
    """What both together mean to one who has seen neither."""
    match earlier, later:
        case Joined(), Left():
            return None
        case Joined(), Updated(announcement):
            return Joined(announcement)
        case Left(), Joined(announcement):
            return Updated(announcement)
        case _:
            return later
