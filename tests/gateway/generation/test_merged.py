"""Several generators read as one."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator

import pytest

from gateway.generation.merged import merged


class Sources:
    """Generators of numbers, which wait to be told to go on; `closed` are those that have ended."""

    def __init__(self) -> None:
        self.go = asyncio.Event()
        self.closed: list[str] = []

    async def numbers(self, name: str, count: int, error: Exception | None = None) -> AsyncGenerator[str, None]:
        try:
            for number in range(count):
                yield f"{name}{number}"
            if error:
                raise error
            await self.go.wait()
        finally:
            self.closed.append(name)


async def test_all_items_come_and_each_sources_in_order():
    sources = Sources()
    sources.go.set()
    items = [item async for item in merged([sources.numbers("a", 3), sources.numbers("b", 2), sources.numbers("c", 0)])]
    assert [item for item in items if item[0] == "a"] == ["a0", "a1", "a2"]
    assert sorted(items) == ["a0", "a1", "a2", "b0", "b1"]


async def test_items_come_while_another_source_waits():
    sources = Sources()
    both = merged([sources.numbers("a", 1), sources.numbers("b", 1)])
    assert {await anext(both), await anext(both)} == {"a0", "b0"}
    assert sources.closed == []
    sources.go.set()
    assert [item async for item in both] == []


async def test_an_error_of_one_ends_the_others():
    sources = Sources()
    both = merged([sources.numbers("a", 1), sources.numbers("b", 1, KeyError("b")), sources.numbers("c", 1)])
    with pytest.raises(KeyError):
        async for _ in both:
            pass
    assert sorted(sources.closed) == ["a", "b", "c"]


async def test_closing_it_closes_all():
    sources = Sources()
    both = merged([sources.numbers("a", 1), sources.numbers("b", 1)])
    await anext(both)
    await both.aclose()
    assert sorted(sources.closed) == ["a", "b"]
