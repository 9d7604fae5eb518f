"""Server-sent events over a feed."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from dataclasses import dataclass

from sse_starlette import EventSourceResponse, ServerSentEvent
from starlette.types import Receive, Scope, Send

from gateway.api.feed import Feed

PING_S = 10
SEND_LIMIT_S = 60  # a client that reads nothing for so long is taken for gone
GRACE_S = 2  # for the last event when the program ends; sse-starlette alone would cut the stream

# At its debug level sse-starlette logs each event, and with it what the model says.
logging.getLogger("sse_starlette").setLevel(logging.INFO)


@dataclass(frozen=True, slots=True)
class NamedEvent:
    """An event that says in a line before its data what it is."""

    name: str
    data: str


class EventStream(EventSourceResponse):
    """Sends each string as one `data:` event, with comments to keep alive; ends `feed` however the response ends."""

    def __init__(self, data: AsyncIterator[str | NamedEvent], feed: Feed) -> None:
        events = (_event(each) async for each in data)
        super().__init__(events, sep="\n", ping=PING_S, send_timeout=SEND_LIMIT_S, shutdown_grace_period=GRACE_S)
        self._feed = feed

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            await self._feed.aclose()


def _event(event: str | NamedEvent) -> ServerSentEvent:
    if isinstance(event, NamedEvent):
        return ServerSentEvent(event.data, event=event.name, sep="\n")
    return ServerSentEvent(event, sep="\n")
