"""`/health`, `/swarm` and `/swarm/events`: what the gateway sees of its swarm."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import suppress
from typing import Any, Protocol

from fastapi import Response
from fastapi.responses import JSONResponse

from gateway.api.event_stream import EventStream
from gateway.api.feed import Feed
from gateway.api.running import RunningRequests
from gateway.api.shapes import event_data
from shared.errors import ShuttingDown


class SwarmView(Protocol):
    """What the API shows of the swarm, in the shapes of `docs/interfaces.md`."""

    def health(self) -> dict[str, Any]:
        """`{"status": "ok" | "waiting", "models": {id: {"blocks", "covered"}}, "join": [...]}`."""
        ...

    def snapshot(self) -> dict[str, Any]:
        """`{"models": [...], "peers": [...], "join": [...]}`."""
        ...

    def changed(self) -> AsyncGenerator[None, None]:
        """Yields after each change of the snapshot, for ever."""
        ...


class SwarmPages:
    """Handlers of the swarm's resources. `closing` is set when the program ends."""

    def __init__(self, view: SwarmView, running: RunningRequests, closing: asyncio.Event) -> None:
        self._view = view
        self._running = running
        self._closing = closing

    async def health(self) -> Response:
        health = self._view.health()
        if self._running.leaving:
            health["status"] = "leaving"
        return JSONResponse(health, 200 if health["status"] == "ok" else 503)

    async def snapshot(self) -> Response:
        return JSONResponse(self._view.snapshot())

    async def events(self) -> Response:
        feed = Feed(self._view.changed(), self._closing)
        return EventStream(self._snapshots(feed), feed)

    async def _snapshots(self, changes: Feed[None]) -> AsyncIterator[str]:
        """The snapshot at once, and again whenever it differs from the one before."""
        sent = event_data(self._view.snapshot())
        yield sent
        with suppress(ShuttingDown):
            async for _ in changes:
                now = event_data(self._view.snapshot())
                if now != sent:
                    yield now
                sent = now
