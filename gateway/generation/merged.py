"""Several async generators as one."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterable, Sequence
from contextlib import aclosing
from typing import TypeVar

Item = TypeVar("Item")


def merged(sources: Sequence[AsyncGenerator[Item, None]]) -> AsyncGenerator[Item, None]:
    """What all of them yield, as it comes. When one raises, or this is closed, all are closed."""
    return sources[0] if len(sources) == 1 else _merged(sources)


def merged_few(sources: Iterable[AsyncGenerator[Item, None]], limit: int) -> AsyncGenerator[Item, None]:
    """The same for many, taken from the iterable one by one, so that at most `limit` (at least 1) run at a time."""
    waiting = iter(sources)

    async def in_turn() -> AsyncGenerator[Item, None]:
        for source in waiting:
            async with aclosing(source):
                async for item in source:
                    yield item

    return merged([in_turn() for _ in range(limit)])


async def _merged(sources: Sequence[AsyncGenerator[Item, None]]) -> AsyncGenerator[Item, None]:
    queue: asyncio.Queue[tuple[Item] | None] = asyncio.Queue()  # None: one has ended

    async def run(source: AsyncGenerator[Item, None]) -> None:
        try:
            async with aclosing(source):
                async for item in source:
                    queue.put_nowait((item,))
        finally:
            queue.put_nowait(None)

    tasks = [asyncio.create_task(run(source)) for source in sources]
    try:
        running = len(tasks)
        while running:
            item = await queue.get()
            if item is not None:
                yield item[0]
                continue
            running -= 1
            for task in tasks:
                if task.done():
                    task.result()
    finally:
        for task in tasks:
            task.cancel()
        done, _ = await asyncio.wait(tasks)
        for task in done:
            if not task.cancelled():
                task.exception()  # of several errors one is told
