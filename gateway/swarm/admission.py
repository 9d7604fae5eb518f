"""Admission: who waits while the swarm's cache is full, and who is next. Knows nothing of peers or chains."""

from __future__ import annotations

import asyncio
from bisect import insort
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from itertools import count
from typing import TypeVar

from shared.changes import Changes
from shared.errors import CacheFull, QueueFull, QueueTimeout
from shared.types import Fingerprint

RETRY_S = 1.0
"""The first in line tries again after this long at the latest: not every change of what is free may be told here."""

RESUMING_PATIENCE = 10
"""A stream that goes on waits so many times as long as a new request may."""

T = TypeVar("T")


@dataclass(slots=True, order=True)
class Place:
    """Where one request stands in the line for its model: streams that go on come first, then who came first."""

    is_new: bool
    number: int
    line: Fingerprint = field(compare=False)
    arrived_at: float = field(compare=False)
    passed: bool = field(default=False, compare=False)
    sent_back: bool = field(default=False, compare=False)
    """True when a peer had no room after all."""
    came_first: asyncio.Event = field(default_factory=asyncio.Event, compare=False)


class Admission:
    """One line for each model. As long as nobody stands in it, everyone passes at once.

    `length` bounds how many new requests stand in a line, `limit_s` how long one waits from its arrival. Streams that
    go on are not counted, stand in front, and wait longer; but one that has waited for `limit_s` does not hold up who
    fits beside it any more. `changes` must tell of all that can make room. `on_wait` hears for how many seconds each
    new request waited that got through.
    """

    def __init__(
        self, changes: Changes, length: int, limit_s: float, on_wait: Callable[[float], None] = lambda seconds: None
    ) -> None:
        self._changes = changes
        self._length = length
        self._limit_s = limit_s
        self._on_wait = on_wait
        self._lines: defaultdict[Fingerprint, list[Place]] = defaultdict(list)
        self._numbers = count()

    @property
    def waiting(self) -> int:
        """How many requests stand in line now."""
        return sum(len(line) for line in self._lines.values())

    def arrive(self, model: Fingerprint, resuming: bool) -> Place:
        """A place for a request that comes now. It is good until the request is over: whoever is sent back keeps it."""
        return Place(not resuming, next(self._numbers), model, _now())

    @contextmanager
    def ahead(self, model: Fingerprint) -> Iterator[None]:
        """While this lasts, requests for the model that have not begun wait: a broken chain needs the next room."""
        line, place = self._lines[model], self.arrive(model, resuming=True)
        insort(line, place)
        try:
            yield
        finally:
            self._leave(line, place)

    async def passes(self, place: Place, choose: Callable[[], T]) -> T:
        """What `choose` gives, when it is this place's turn and `choose` does not raise CacheFull any more.

        `choose` is called without an await in between, so nobody decides on what another one is about to take. Raises
        QueueFull, QueueTimeout, and what else `choose` raises.
        """
        chosen = await self._in_turn(place, choose)
        if place.is_new and not place.passed:
            self._on_wait(_now() - place.arrived_at)
        place.passed = True
        return chosen

    async def _in_turn(self, place: Place, choose: Callable[[], T]) -> T:
        line = self._lines[place.line]
        if place.sent_back and _now() > self._deadline(place):  # peers say that they have room, and refuse all the same
            raise self._timeout(place)
        if not line or place < line[0]:
            with suppress(CacheFull):
                return choose()
        self._join(line, place)
        try:
            async with asyncio.timeout_at(place.arrived_at + self._limit_s):
                return await self._once_there_is_room(line, place, choose)
        except TimeoutError as error:
            if place.is_new:
                raise self._timeout(place) from error
        finally:
            self._leave(line, place)
        return await self._beside_the_line(place, choose)

    async def _beside_the_line(self, place: Place, choose: Callable[[], T]) -> T:
        """For a stream that goes on and has waited for long: it tries as before, and holds up nobody any more."""
        try:
            async with asyncio.timeout_at(self._deadline(place)):
                while True:
                    with suppress(CacheFull):
                        return choose()
                    await self._change()
        except TimeoutError as error:
            raise self._timeout(place) from error

    async def _once_there_is_room(self, line: list[Place], place: Place, choose: Callable[[], T]) -> T:
        """Nothing is awaited between a try and the wait for the next change, so no change is missed."""
        while True:
            if line[0] is place:
                await self._change()
            else:
                place.came_first.clear()
                await place.came_first.wait()
            if line[0] is place:  # a stream that goes on may have come in front meanwhile
                with suppress(CacheFull):
                    return choose()

    async def _change(self) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(RETRY_S):
                await self._changes.wait()

    def _join(self, line: list[Place], place: Place) -> None:
        """Raises QueueFull; one who passed before, and was sent back, is let in."""
        new = sum(each.is_new for each in line)
        if place.is_new and not place.passed and new >= self._length:
            raise QueueFull(
                f"the swarm's cache is full, and {new} requests wait for it already: try again in some seconds"
            )
        insort(line, place)

    def _leave(self, line: list[Place], place: Place) -> None:
        line.remove(place)
        if line:
            line[0].came_first.set()

    def _deadline(self, place: Place) -> float:
        return place.arrived_at + self._limit_s * (1 if place.is_new else RESUMING_PATIENCE)

    def _timeout(self, place: Place) -> QueueTimeout:
        waited_s = self._deadline(place) - place.arrived_at
        return QueueTimeout(f"the swarm's cache was full for {waited_s:g} s: try again later")


def _now() -> float:
    return asyncio.get_running_loop().time()
