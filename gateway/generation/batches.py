"""Work of many coroutines for one thread, done together: while the thread is busy, items collect.

What is done for one item alone and what is done for sixty often costs the same: reading a matrix.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from typing import Generic, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")

LARGEST = 64
"""Items that are done at once, unless said otherwise: it bounds what a batch takes in memory."""

PAUSE = 0.1
"""Of the time that a batch takes: so long the first item waits for others that may be on their way."""

LONGEST_PAUSE_S = 0.005
_WEIGHT = 0.2  # of the newest batch in the running mean of their times


OnBatch = Callable[[int, float], None]
"""Hears, on the event loop, how many items a batch had and how many seconds it took."""


class Batches(Generic[Item, Result]):
    """Hands items to `run` on the thread of an executor: all that wait when it is free, first come first served.

    `run` gives a result for each item; when it raises, halves are tried again, so that the item at fault fails alone.
    """

    def __init__(
        self,
        run: Callable[[Sequence[Item]], Sequence[Result]],
        thread: Executor,
        on_batch: OnBatch = lambda size, seconds: None,
        others: Callable[[], bool] = lambda: False,
        largest: int = LARGEST,
    ) -> None:
        """`others`: whether an item that comes may soon be followed by somebody else's.

        At most `largest` items are done before other kinds of work get their turn: one, where they share nothing.
        """
        self._run = run
        self._thread = thread
        self._on_batch = on_batch
        self._others = others
        self._largest = largest
        self._batch_s = 0.0
        self._lock = threading.Lock()  # of what follows, which both threads use
        self._waiting: list[tuple[Item, asyncio.Future[Result]]] = []
        self._called = False

    async def do(self, item: Item) -> Result:
        """What `run` gives for this item; raises what it raises. An item whose waiter is cancelled is not begun."""
        result: asyncio.Future[Result] = asyncio.get_running_loop().create_future()
        with self._lock:
            self._waiting.append((item, result))
            first, self._called = not self._called, True
        if first:
            self._begin(asyncio.get_running_loop())
        return await result

    def _begin(self, loop: asyncio.AbstractEventLoop) -> None:
        """Have the first item done, at once or after a pause that is short beside the time that it takes."""
        if self._others():
            pause_s = min(PAUSE * self._batch_s, LONGEST_PAUSE_S)
            loop.call_later(pause_s, lambda: self._thread.submit(self._work, loop))
        else:
            self._thread.submit(self._work, loop)

    def _work(self, loop: asyncio.AbstractEventLoop) -> None:
        """On the thread: one batch. Other kinds of work get their turn before the next one."""
        with self._lock:
            batch, self._waiting = self._waiting[: self._largest], self._waiting[self._largest :]
            more = self._called = bool(self._waiting)
        if more:
            self._thread.submit(self._work, loop)
        batch = [(item, result) for item, result in batch if not result.cancelled()]
        if batch:
            started = time.perf_counter()
            results = self._attempt([item for item, _ in batch])
            seconds = time.perf_counter() - started
            loop.call_soon_threadsafe(self._deliver, [result for _, result in batch], results, seconds)

    def _attempt(self, items: Sequence[Item]) -> Sequence[Result | Exception]:
        try:
            return self._run(items)
        except Exception as error:  # noqa: BLE001 - whoever waits for the item gets it, whatever it is
            if len(items) == 1:
                return [error]
        half = len(items) // 2  # the others go on sharing
        return [*self._attempt(items[:half]), *self._attempt(items[half:])]

    def _deliver(
        self, waiters: Sequence[asyncio.Future[Result]], results: Sequence[Result | Exception], seconds: float
    ) -> None:
        self._batch_s += _WEIGHT * (seconds - self._batch_s)
        self._on_batch(len(waiters), seconds)
        for waiter, result in zip(waiters, results, strict=True):
            if waiter.cancelled():
                continue
            if isinstance(result, Exception):
                waiter.set_exception(result)
            else:
                waiter.set_result(result)
