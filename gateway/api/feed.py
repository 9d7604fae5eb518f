"""Work for one request that runs beside it, and how it ends: with the client's leaving, or the program's end."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Coroutine
from contextlib import aclosing
from typing import Any, Generic, TypeVar

from starlette.requests import ClientDisconnect, Request

from shared.errors import ShuttingDown

Item = TypeVar("Item")
Result = TypeVar("Result")


class Feed(Generic[Item]):
    """Runs an async generator in a task of its own, to its end, and hands on what it yields.

    One task, because sse-starlette cancels through anyio, which cancels every later await of the task again, and so
    also those by which a generation frees its caches on other nodes. Here cancellation comes once. There is no limit
    on what waits to be read: a client that reads slowly should not hold the peers' caches for longer.
    """

    def __init__(self, source: AsyncGenerator[Item, None], closing: asyncio.Event) -> None:
        self._items: asyncio.Queue[tuple[Item] | None] = asyncio.Queue()  # None: no more
        self._begun = asyncio.Event()
        self._shut_down = self._cancelled = False
        self._task = asyncio.create_task(self._run(source))
        self._task.add_done_callback(self._end)
        self._guard = asyncio.create_task(self._watch(closing))

    async def begun(self, within_s: float, since: asyncio.Event) -> None:
        """Returns at the first item, or `within_s` after `since` was set.

        Raises what the source raised instead of a first item.
        """
        waits = [asyncio.create_task(self._begun.wait()), asyncio.create_task(_set_for(since, within_s))]
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()
        if self._items.qsize() == 1 and self._task.done():
            self._raise_failure()

    def __aiter__(self) -> Feed[Item]:
        return self

    async def __anext__(self) -> Item:
        """The next item. Raises what the source raised, and ShuttingDown when the program ends."""
        item = await self._items.get()
        if item is None:
            self._raise_failure()
            raise StopAsyncIteration
        return item[0]

    async def aclose(self) -> None:
        """Ends the source and waits until it has cleaned up. What it raises now is nobody's any more."""
        self._guard.cancel()
        self._cancel()
        await asyncio.gather(self._task, self._guard, return_exceptions=True)

    async def _run(self, source: AsyncGenerator[Item, None]) -> None:
        async with aclosing(source):
            async for item in source:
                self._items.put_nowait((item,))
                self._begun.set()

    async def _watch(self, closing: asyncio.Event) -> None:
        await closing.wait()
        self._shut_down = True
        self._cancel()

    def _cancel(self) -> None:
        if not self._cancelled:  # a second time would cut the cleanup that the first has begun
            self._cancelled = True
            self._task.cancel()

    def _end(self, task: asyncio.Task[None]) -> None:
        self._items.put_nowait(None)
        self._begun.set()

    def _raise_failure(self) -> None:
        if self._task.cancelled() and self._shut_down:
            raise ShuttingDown("the gateway is shutting down")
        self._task.result()


async def _set_for(event: asyncio.Event, seconds: float) -> None:
    await event.wait()
    await asyncio.sleep(seconds)


async def unless_gone(request: Request, work: Coroutine[Any, Any, Result]) -> Result:
    """The result of `work`, which is cancelled when the client goes away. Raises ClientDisconnect then."""
    working, gone = asyncio.create_task(work), asyncio.create_task(_gone(request))
    try:
        await asyncio.wait({working, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise ClientDisconnect
        return working.result()
    finally:
        working.cancel()
        gone.cancel()
        await asyncio.wait({working, gone})


async def _gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
