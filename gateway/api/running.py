"""The requests that are being answered: a gateway that leaves finishes them, and takes no more."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

from starlette.types import ASGIApp, Receive, Scope, Send

from shared.errors import ShuttingDown, TooManyRequests

STORED = "/v1/responses/"


class RunningRequests:
    """How many there are, at most `limit`, and whether more are taken."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._count = 0
        self._none = asyncio.Event()
        self._none.set()
        self.leaving = False

    def __len__(self) -> int:
        return self._count

    def refuse_more(self) -> None:
        """The gateway leaves."""
        self.leaving = True

    async def finished(self) -> None:
        """Return when none runs."""
        await self._none.wait()

    @contextmanager
    def admit(self) -> Iterator[None]:
        """One more, inside. Raises ShuttingDown when the gateway leaves, and TooManyRequests."""
        if self.leaving:
            raise ShuttingDown("this gateway is shutting down and takes no new requests: try again, or another one")
        if self._count >= self._limit:
            raise TooManyRequests(f"this gateway is answering {self._limit} requests, as many as it takes: try again")
        self._count += 1
        self._none.clear()
        try:
            yield
        finally:
            self._count -= 1
            if not self._count:
                self._none.set()


def asks_for_work(scope: Scope) -> bool:
    """A POST; and what is asked of stored responses, which may be large, and keep the database from others."""
    return scope["type"] == "http" and (scope["method"] == "POST" or scope["path"].startswith(STORED))


class Admittance:
    """ASGI middleware: what asks for work is admitted or refused; who only looks is always let in."""

    def __init__(self, app: ASGIApp, running: RunningRequests) -> None:
        self._app = app
        self._running = running

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if not asks_for_work(scope):
            await self._app(scope, receive, send)
            return
        with self._running.admit():
            await self._app(scope, receive, send)
