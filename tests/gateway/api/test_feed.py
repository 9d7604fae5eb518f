"""A feed: what it hands on, and that its source can always clean up."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator

import pytest

from gateway.api.feed import Feed
from shared.errors import ShuttingDown


class Source:
    """Yields 0, 1, ... and then waits for ever; its cleanup takes until a test lets it end."""

    def __init__(self, items: int, error: Exception | None = None) -> None:
        self._items = items
        self._error = error
        self.cleaning, self.may_end, self.cleaned = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def items(self) -> AsyncGenerator[int, None]:
        try:
            for number in range(self._items):
                yield number
            if self._error is not None:
                raise self._error
            await asyncio.Event().wait()
        finally:
            self.cleaning.set()
            await self.may_end.wait()
            self.cleaned.set()


async def test_items_and_then_the_error_are_handed_on():
    source = Source(2, ValueError("broken"))
    source.may_end.set()
    feed = Feed(source.items(), asyncio.Event())
    await feed.begun(1, asyncio.Event())
    assert [await anext(feed), await anext(feed)] == [0, 1]
    with pytest.raises(ValueError, match="broken"):
        await anext(feed)


async def test_an_error_before_the_first_item_comes_from_begun():
    source = Source(0, ValueError("broken"))
    source.may_end.set()
    with pytest.raises(ValueError, match="broken"):
        await Feed(source.items(), asyncio.Event()).begun(1, asyncio.Event())


async def test_begun_does_not_wait_for_ever():
    feed = Feed((source := Source(0)).items(), asyncio.Event())
    opened = asyncio.Event()
    opened.set()
    await feed.begun(0.01, opened)
    source.may_end.set()
    await feed.aclose()
    assert source.cleaned.is_set()


async def test_leaving_while_the_program_ends_does_not_cut_the_cleanup():
    source, closing = Source(1), asyncio.Event()
    feed = Feed(source.items(), closing)
    assert await anext(feed) == 0
    closing.set()
    await source.cleaning.wait()
    leaving = asyncio.create_task(feed.aclose())
    await asyncio.sleep(0)
    source.may_end.set()
    await leaving
    assert source.cleaned.is_set()
    with pytest.raises(ShuttingDown):
        await anext(feed)
