"""Stored responses, in each of the databases."""

from __future__ import annotations

import sqlite3
import time
from contextlib import closing
from pathlib import Path

import pytest

from gateway.store import responses
from gateway.store.address import database_url
from gateway.store.database import Database
from gateway.store.responses import ResponseStore, StoredResponse
from shared.errors import InvalidRequest


@pytest.fixture
def store(database: Database) -> ResponseStore:
    return ResponseStore(database)


def stored(id: str, owner: str = "", previous: str | None = None, created_at: int | None = None) -> StoredResponse:
    body = {"id": id, "text": "naïve \x00 \ud83d 漢"}
    return StoredResponse(id, owner, created_at or int(time.time()), "org/model", previous, body, [{"role": "user"}])


async def test_a_response_comes_back_as_it_was_to_its_owner_alone(store: ResponseStore):
    response = stored("resp_1", owner="key_1")
    await store.put(response)
    assert await store.get("resp_1", "key_1") == response
    assert await store.get("resp_1", "key_2") is None
    assert await store.get("resp_1", "") is None
    assert not await store.delete("resp_1", "key_2")
    assert await store.delete("resp_1", "key_1")
    assert await store.get("resp_1", "key_1") is None


@pytest.mark.parametrize("id", ["", "\x00", "\ud800", "x" * 10_000, "' OR 1=1 --"])
async def test_any_text_may_be_asked_for(store: ResponseStore, id: str):
    assert await store.get(id, "") is None
    assert not await store.delete(id, "")
    if id:
        with pytest.raises(InvalidRequest):
            await store.history(id, "")


async def test_a_conversation_is_told_oldest_first(store: ResponseStore):
    for number in range(1, 5):
        await store.put(stored(f"resp_{number}", previous=f"resp_{number - 1}" if number > 1 else None))
    told = await store.history("resp_3", "", limit=3)
    assert [each.id for each in told] == ["resp_1", "resp_2", "resp_3"]
    with pytest.raises(InvalidRequest, match="too long"):
        await store.history("resp_4", "", limit=3)


async def test_a_conversation_without_its_middle_cannot_be_continued(store: ResponseStore):
    await store.put(stored("resp_1"))
    await store.put(stored("resp_2", previous="resp_1"))
    await store.delete("resp_1", "")
    with pytest.raises(InvalidRequest) as refused:
        await store.history("resp_2", "")
    assert (refused.value.param, refused.value.code) == ("previous_response_id", "previous_response_not_found")


async def test_what_is_too_large_is_refused(store: ResponseStore, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(responses, "SIZE_LIMIT_BYTES", 100)
    with pytest.raises(InvalidRequest, match="store=false"):
        await store.put(StoredResponse("resp_1", "", 1, "m", None, {"text": "x" * 100}, []))


async def test_items_that_are_too_large_together_are_not_written_out(store: ResponseStore):
    many = [{"text": "x" * 1_000_000}] * 10_000
    with pytest.raises(InvalidRequest, match="store=false"):
        await store.put(StoredResponse("resp_1", "", 1, "m", None, {}, many))


async def test_old_responses_are_pruned(store: ResponseStore):
    month_ago = int(time.time()) - 30 * 86400
    await store.put(stored("resp_old", created_at=month_ago - 10))
    await store.put(stored("resp_new", created_at=month_ago + 60))
    assert await store.prune() == 1
    assert await store.get("resp_old", "") is None
    assert await store.get("resp_new", "")


async def test_nobody_waits_while_nothing_is_pruned(tmp_path: Path):
    database = Database.open(database_url(None, tmp_path))
    await ResponseStore(database).put(stored("resp_1"))
    with closing(sqlite3.connect(tmp_path / "gateway.db", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")  # who writes now has to wait, and fails
        assert await ResponseStore(database).prune() == 0
    database.close()


async def test_an_owner_who_stores_too_much_loses_the_oldest(store: ResponseStore, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(responses, "OWNER_LIMIT_BYTES", 250)
    now = int(time.time())
    for number in range(5):
        await store.put(stored(f"resp_{number}", created_at=now - 10 + number))
    await store.put(stored("resp_other", owner="key_1"))
    assert await store.get("resp_0", "") is None
    assert await store.get("resp_4", "")
    assert await store.get("resp_other", "key_1")
