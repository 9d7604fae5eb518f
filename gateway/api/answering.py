"""How answers go out: whole, or as a stream of events; and what both owe a client that goes away."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from typing import TypeVar

from fastapi import Request, Response

from gateway.api.event_stream import EventStream, NamedEvent
from gateway.api.feed import Feed, unless_gone
from gateway.generation.completion import ServedModel

Item = TypeVar("Item")

FIRST_ITEM_S = 15  # after the wait for cache; until then an error becomes a status, then comments keep a stream alive


class Opening:
    """Hears when the swarm has room for a request, which has `begun` then, and what computes it."""

    def __init__(self, model: ServedModel, begun: Callable[[], None]) -> None:
        self._model = model
        self._begun = begun
        self._numerics = ""
        self.over = asyncio.Event()

    def __call__(self, numerics: str) -> None:
        self._numerics = self._numerics or numerics
        self._begun()
        self.over.set()

    @property
    def fingerprint(self) -> str:
        """OpenAI's `system_fingerprint`: another one where the same seed may give another text."""
        return "fp_" + hashlib.sha256(f"{self._model.fingerprint} {self._numerics}".encode()).hexdigest()[:12]


async def whole(request: Request, feed: Feed[Item]) -> list[Item]:
    """All items, when they have come. Raises what the feed raises, and ClientDisconnect."""
    async with aclosing(feed):
        return await unless_gone(request, _collect(feed))


async def streamed(
    request: Request, feed: Feed[Item], opening: Opening, data: AsyncIterator[str | NamedEvent]
) -> Response:
    """A stream of events made of `data`, which reads the feed.

    While a request waits for cache, which it may do for longer than `FIRST_ITEM_S`, nothing is sent, so that what goes
    wrong is still told by a status. Raises what the feed raises by then.
    """
    try:
        await unless_gone(request, feed.begun(FIRST_ITEM_S, opening.over))
    except BaseException:
        await feed.aclose()
        raise
    return EventStream(data, feed)


async def _collect(feed: Feed[Item]) -> list[Item]:
    return [item async for item in feed]
