"""Something changed, told to whoever waits: many changes in a row may be told as one."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator


class Changes:
    """`notify` wakes all who wait; nothing is kept for those who come later."""

    def __init__(self) -> None:
        self._next = asyncio.Event()

    def notify(self) -> None:
        self._next.set()
        self._next = asyncio.Event()

    async def wait(self) -> None:
        """Return at the next change."""
        await self._next.wait()

    def follow(self) -> AsyncGenerator[None, None]:
        """Yields at each change from this call on; those that come while the reader is busy are told as one."""
        return self._follow(self._next)

    async def _follow(self, upcoming: asyncio.Event) -> AsyncGenerator[None, None]:
        while True:
            await upcoming.wait()
            upcoming = self._next
            yield
