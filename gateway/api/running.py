"""The requests that are being answered: a gateway that leaves finishes them, and takes no more."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

from starlette.types import ASGIApp, Receive, Scope, Send

from shared.errors import ShuttingDown


class RunningRequests:
    """How many there are, and whether more are taken."""

    def __init__(self) -> None:
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
        """One more, inside. Raises ShuttingDown when the gateway leaves."""
        if self.leaving:
            raise ShuttingDown("this gateway is shutting down and takes no new requests: try again, or another one")
        self._count += 1
        self._none.clear()
        try:
            yield
        finally:
            self._count -= 1
            if not self._count:
                self._none.set()


class Admittance:
    """ASGI middleware: a POST asks for work, which is admitted or refused; who only looks is always let in."""

    def __init__(self, app: ASGIApp, running: RunningRequests) -> None:
        self._app = app
        self._running = running

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] != "POST":
            await self._app(scope, receive, send)
            return
        with self._running.admit():
            await self._app(scope, receive, send)
