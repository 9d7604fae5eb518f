from __future__ import annotations

import asyncio

import pytest

from shared.identity import Identity
from shared.table import Change, Joined, Left, Table, Updated
from shared.table_changes import TableChanges
from tests.shared.announcements import announcement

ANN, BEN = (Identity.from_seed(letter * 32) for letter in (b"a", b"b"))
FIRST, SECOND = announcement(ANN, sequence=1), announcement(ANN, sequence=2)
OTHER = announcement(BEN)


@pytest.mark.parametrize(
    ("told", "read"),
    [
        ([Joined(FIRST), Updated(SECOND)], [Joined(SECOND)]),
        ([Joined(FIRST), Left(FIRST, "x")], []),
        ([Updated(FIRST), Left(FIRST, "x")], [Left(FIRST, "x")]),
        ([Left(FIRST, "x"), Joined(SECOND)], [Updated(SECOND)]),
        ([Updated(FIRST), Updated(SECOND)], [Updated(SECOND)]),
    ],
)
async def test_what_a_slow_reader_has_not_read_is_merged(told: list[Change], read: list[Change]) -> None:
    changes = TableChanges(())
    follower = changes.follow()
    first = asyncio.create_task(anext(follower))
    await asyncio.sleep(0)  # it follows from now on
    for change in [*told, Joined(OTHER)]:
        changes.tell(change)
    seen = [await first]
    while seen[-1] != Joined(OTHER):
        seen.append(await anext(follower))
    assert seen == [*read, Joined(OTHER)]
    await follower.aclose()


async def test_a_follower_first_hears_of_all_that_are_there() -> None:
    table = Table("test")
    table.accept(b"", OTHER, 0.0)
    follower = TableChanges(table).follow()
    assert await anext(follower) == Joined(OTHER)
    await follower.aclose()
