"""Work that collects while a thread is busy."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import pytest

from gateway.generation.batches import LARGEST, Batches


class Thread(ThreadPoolExecutor):
    """One thread, busy until `go` is set."""

    def __init__(self) -> None:
        super().__init__(1)
        self.go = threading.Event()
        self.submit(self.go.wait, 20)


@pytest.fixture
def thread() -> Iterator[Thread]:
    with Thread() as thread:
        yield thread
        thread.go.set()


class Roots:
    """Square roots of whole numbers; remembers which came together."""

    def __init__(self, thread: Thread) -> None:
        self.seen: list[list[float]] = []
        self.told: list[int] = []
        self.batches = Batches(self._run, thread, lambda size, seconds: self.told.append(size))

    def _run(self, items: Sequence[float]) -> list[float]:
        self.seen.append(list(items))
        if any(item < 0 for item in items):
            raise ValueError("no root")
        return [item**0.5 for item in items]

    async def begin(self, *items: float) -> list[asyncio.Task[float]]:
        """One task for each, all of which wait when this returns."""
        tasks = [asyncio.create_task(self.batches.do(item)) for item in items]
        await asyncio.sleep(0)
        return tasks


async def test_items_that_wait_are_done_together_in_their_order(thread: Thread):
    roots = Roots(thread)
    tasks = await roots.begin(9, 4, 1)
    thread.go.set()
    assert await asyncio.gather(*tasks) == [3, 2, 1]
    assert await roots.batches.do(16) == 4
    assert roots.seen == [[9, 4, 1], [16]]
    assert roots.told == [3, 1]


async def test_an_item_that_fails_fails_alone(thread: Thread):
    roots = Roots(thread)
    tasks = await roots.begin(9, -1, 4)
    thread.go.set()
    three, error, two = await asyncio.gather(*tasks, return_exceptions=True)
    assert (three, two) == (3, 2)
    assert isinstance(error, ValueError)


async def test_an_item_that_nobody_waits_for_is_not_begun(thread: Thread):
    roots = Roots(thread)
    kept, gone = await roots.begin(9, 4)
    gone.cancel()
    await asyncio.wait({gone})
    thread.go.set()
    assert await kept == 3
    assert roots.seen == [[9]]


async def test_a_batch_is_bounded_and_the_rest_comes_next(thread: Thread):
    roots = Roots(thread)
    tasks = await roots.begin(*range(LARGEST + 5))
    thread.go.set()
    await asyncio.gather(*tasks)
    assert [len(batch) for batch in roots.seen] == [LARGEST, 5]


async def test_kinds_of_work_take_turns(thread: Thread):
    first, second = Roots(thread), Roots(thread)
    second.seen = first.seen
    tasks = [*await first.begin(*range(LARGEST * 2)), *await second.begin(7)]
    thread.go.set()
    await asyncio.gather(*tasks)
    assert [len(batch) for batch in first.seen] == [LARGEST, 1, LARGEST]
