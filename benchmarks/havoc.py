"""Faults done to a fleet as the plan says, and undone; what was done when."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from dataclasses import dataclass

from benchmarks.client import EndpointFailed
from benchmarks.faults import Fault, Kind, victims
from benchmarks.fleet import LOOK_S, Fleet, Place

STOPPED_S, GOING_S = 0.45, 0.05
"""A slow peer, in turn: a tenth of its speed."""


@dataclass(slots=True)
class Event:
    """A fault that happened, to these places; `over` when all of them were usable again, infinite until then."""

    number: int
    kind: Kind
    places: list[str]
    spare: bool
    at: float
    over: float = float("inf")
    trouble: str = ""
    """Why a place did not come back; then somebody else came in its place."""


class Havoc:
    """Does what a plan says, one fault after the other, each as soon as the rule allows it. Many last at once."""

    def __init__(self, fleet: Fleet) -> None:
        self.events: list[Event] = []
        self._fleet = fleet

    async def run(self, plan: Iterator[Fault], stop: asyncio.Event) -> None:
        """Until `stop`; then all is undone. Raises EndpointFailed in a group when the gateway does not answer."""
        async with asyncio.TaskGroup() as lasting:
            for fault in plan:
                if await _happens(stop, fault.after_s):
                    return
                hit = await self._until_allowed(fault, stop)
                if not hit:
                    return
                event = Event(fault.number, fault.kind, [each.name for each in hit], fault.spare, time.perf_counter())
                self.events.append(event)
                for place in hit:
                    place.faulty = True
                lasting.create_task(self._suffer(fault, event, hit))

    async def _until_allowed(self, fault: Fault, stop: asyncio.Event) -> list[Place]:
        """The places that it hits, none when it is time to stop."""
        while not stop.is_set():
            await self._fleet.look()
            if hit := victims(fault, self._fleet.blocks, self._fleet.sound()):
                return [self._fleet.places[number] for number in hit]
            await asyncio.sleep(LOOK_S)
        return []

    async def _suffer(self, fault: Fault, event: Event, hit: list[Place]) -> None:
        """Done and undone."""
        try:
            await asyncio.gather(*(self._do(fault, place) for place in hit))
            await self._fleet.until_back(hit)
        except EndpointFailed as error:
            event.trouble = str(error)
            await self._replace(hit)
        event.over = time.perf_counter()

    async def _replace(self, places: list[Place]) -> None:
        for place in places:
            await place.kill()
            await place.start(as_new=True)
        await self._fleet.until_back(places)

    async def _do(self, fault: Fault, place: Place) -> None:
        does = {
            "kill": self._kill,
            "freeze": self._freeze,
            "restart": self._restart,
            "drain": self._drain,
            "slow": self._slow,
            "unplug": self._unplug,
        }
        await does[fault.kind](place, fault.lasts_s)

    async def _kill(self, place: Place, lasts_s: float) -> None:
        await place.kill()
        await asyncio.sleep(lasts_s)
        await place.start()

    async def _freeze(self, place: Place, lasts_s: float) -> None:
        place.freeze()
        await asyncio.sleep(lasts_s)
        place.thaw()

    async def _restart(self, place: Place, _lasts_s: float) -> None:
        await place.end()
        await place.start()

    async def _drain(self, place: Place, lasts_s: float) -> None:
        await place.leave()
        await asyncio.sleep(lasts_s)
        await place.start(as_new=True)

    async def _slow(self, place: Place, lasts_s: float) -> None:
        until = time.perf_counter() + lasts_s
        while time.perf_counter() < until:
            place.freeze()
            await asyncio.sleep(STOPPED_S)
            place.thaw()
            await asyncio.sleep(GOING_S)

    async def _unplug(self, place: Place, lasts_s: float) -> None:
        self._fleet.hosts.plug(place.host, up=False)
        await asyncio.sleep(lasts_s)
        self._fleet.hosts.plug(place.host, up=True)


async def _happens(event: asyncio.Event, within_s: float) -> bool:
    try:
        await asyncio.wait_for(event.wait(), within_s)
    except TimeoutError:
        return False
    return True
