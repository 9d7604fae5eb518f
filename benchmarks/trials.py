"""One stream, one fault at one hop of it while it decodes, and how long the client then waits for the next piece."""

from __future__ import annotations

import asyncio
import statistics
import time
from dataclasses import dataclass, field
from typing import Literal

from benchmarks.client import EndpointFailed
from benchmarks.fleet import Fleet, Place
from benchmarks.prompts import Prompts
from benchmarks.streams import Request, Stream, run_stream
from benchmarks.trace import Spent, parse_counters

Hop = Literal["first", "middle", "last"]
Kind = Literal["kill", "freeze", "unplug"]

BEFORE, AFTER = 8, 24
"""Pieces of an answer before the fault, and tokens that are asked for beyond them."""

WARM = 64
DETECTIONS = "corolla_failover_detection_seconds"


@dataclass(frozen=True, slots=True)
class Case:
    """What is done to which hop of a stream with so many tokens in its prompt."""

    kind: Kind
    hop: Hop
    context: int


@dataclass(slots=True)
class Pauses:
    """What was measured of one case: the pauses, how much of each was over before the gateway knew of the fault, and
    the usual time between two pieces before them."""

    pauses_s: list[float] = field(default_factory=list)
    detections_s: list[float] = field(default_factory=list)
    steps_s: list[float] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)


class Trials:
    """Streams with a fault each, on one fleet of so many ranges."""

    def __init__(self, fleet: Fleet, ranges: int, prompts: Prompts) -> None:
        self._fleet = fleet
        self._ranges = ranges
        self._prompts = prompts

    async def run(self, case: Case, found: Pauses) -> None:
        """One stream, one fault, and everything as before. Raises EndpointFailed when a peer does not come back."""
        decoding = asyncio.Event()

        async def grown(stream: Stream) -> None:
            if len(stream.arrivals) == BEFORE:
                decoding.set()

        await self._fleet.until_idle()
        detection_s = await self._detection_s()
        request = Request(await self._prompts.make(case.context), BEFORE + AFTER)
        running = asyncio.create_task(run_stream(self._fleet.endpoint, 0, request, grown))
        waiting = asyncio.create_task(decoding.wait())
        await asyncio.wait((running, waiting), return_when=asyncio.FIRST_COMPLETED)
        waiting.cancel()
        if running.done():
            found.failed.append(f"the stream ended before it decoded: {running.result().reason}")
            return
        place = await self._hop(case.hop)
        at = time.perf_counter()
        await self._do(case.kind, place)
        stream = await running
        _note(stream, at, await self._detection_s() - detection_s, found)
        await self._undo(case.kind, place)

    async def warm_up(self) -> None:
        await run_stream(self._fleet.endpoint, 0, Request(await self._prompts.make(WARM), BEFORE))

    async def _detection_s(self) -> float:
        """Seconds of all detections that the gateway has counted."""
        counters = parse_counters((await self._fleet.endpoint.http.get("/metrics")).text)
        return counters.get((DETECTIONS, ""), Spent()).total

    async def _hop(self, hop: Hop) -> Place:
        serving = await self._fleet.serving()
        if len(serving) != self._ranges:
            raise EndpointFailed(f"{len(serving)} peers hold sessions, not {self._ranges}: others use this swarm")
        return serving[{"first": 0, "middle": 1, "last": -1}[hop]]

    async def _do(self, kind: Kind, place: Place) -> None:
        place.faulty = True
        if kind == "kill":
            await place.kill()
        elif kind == "freeze":
            place.freeze()
        else:
            self._fleet.hosts.plug(place.host, up=False)

    async def _undo(self, kind: Kind, place: Place) -> None:
        if kind == "kill":
            await place.start()
        elif kind == "freeze":
            place.thaw()
        else:
            self._fleet.hosts.plug(place.host, up=True)
        await self._fleet.until_back([place])


def _note(stream: Stream, at: float, detection_s: float, found: Pauses) -> None:
    if stream.end != "whole":
        found.failed.append(stream.reason)
        return
    found.pauses_s.append(max(end - start for start, end in stream.gaps if end > at))
    found.detections_s.append(detection_s)
    found.steps_s.append(statistics.median(end - start for start, end in stream.gaps if end <= at))
