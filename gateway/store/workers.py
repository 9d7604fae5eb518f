"""Threads that wait for the database, so that the event loop never does."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from queue import SimpleQueue
from typing import Any, TypeVar

Result = TypeVar("Result")


class Workers:
    """So many threads, which take work in its order.

    They are daemons, unlike an executor's: one that waits for a database which says nothing must not hold up the end of
    the program.
    """

    def __init__(self, count: int, name: str) -> None:
        self._waiting: SimpleQueue[tuple[Future[Any], Callable[[], Any]] | None] = SimpleQueue()
        self._threads = [threading.Thread(target=self._work, name=name, daemon=True) for _ in range(count)]
        for thread in self._threads:
            thread.start()

    async def run(self, work: Callable[[], Result], within_s: float) -> Result:
        """What `work` returns or raises. Raises TimeoutError: work that has not begun by then never will."""
        future: Future[Result] = Future()
        self._waiting.put((future, work))
        async with asyncio.timeout(within_s):
            return await asyncio.wrap_future(future)

    def end(self, within_s: float) -> None:
        """Return when all that was asked for is done, or that much later."""
        for _ in self._threads:
            self._waiting.put(None)
        deadline = time.monotonic() + within_s
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))

    def _work(self) -> None:
        while (asked := self._waiting.get()) is not None:
            future, work = asked
            if not future.set_running_or_notify_cancel():
                continue
            try:
                future.set_result(work())
            except BaseException as error:  # noqa: BLE001  it belongs to whoever awaits
                future.set_exception(error)
