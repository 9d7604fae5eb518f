"""Keys in the database, and the ring that a running gateway holds."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from pathlib import Path

import pytest
from sqlalchemy import URL, select, text

from gateway.store import keyring
from gateway.store.address import database_url
from gateway.store.database import Database
from gateway.store.keyring import KeyRing
from gateway.store.keys import Key, KeyStore
from gateway.store.tables import KEYS
from shared.errors import StoreUnavailable

DEADLINE_S = 5


@pytest.fixture
def keys(database: Database) -> KeyStore:
    return KeyStore(database)


async def test_a_key_is_listed_without_its_text(keys: KeyStore, database: Database):
    key, secret = await keys.create("laptop", requests_per_minute=60, tokens_per_minute=None)
    assert secret.startswith("sk-corolla-")
    assert len(secret) > 50
    assert await keys.all() == [key]
    assert (key.name, key.requests_per_minute, key.tokens_per_minute) == ("laptop", 60, None)
    assert secret.startswith(key.prefix)
    rows = await database.run(lambda connection: connection.execute(select(KEYS)).all())
    assert secret[len(key.prefix) :] not in str(rows)


async def test_a_key_is_revoked_once(keys: KeyStore):
    key, _ = await keys.create("laptop")
    assert await keys.revoke(key.id)
    assert not await keys.revoke(key.id)
    assert not await keys.revoke("key_none")
    assert (await keys.all())[0].revoked_at
    assert await keys.live() == {}


async def test_a_ring_follows_what_other_programs_do(url: URL):
    ours, theirs = Database.open(url), Database.open(url)
    ring, keys = KeyRing(KeyStore(ours)), KeyStore(theirs)
    assert await ring.find("sk-corolla-guess") is None
    key, secret = await keys.create("laptop")
    await until_found(ring, secret, key)
    await keys.revoke(key.id)
    await until_found(ring, secret, None)
    ours.close()
    theirs.close()


async def until_found(ring: KeyRing, secret: str, key: Key | None) -> None:
    async with asyncio.timeout(DEADLINE_S):
        while True:
            if await ring.find(secret) == key:
                return
            await asyncio.sleep(0.01)


async def test_guesses_are_not_questions_to_the_database(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(keyring, "UNKNOWN_FRESH_S", 60)
    database = Database.open(database_url(None, tmp_path))
    keys = KeyStore(database)
    _, secret = await keys.create("laptop")
    ring = KeyRing(keys)
    assert await ring.find(secret)
    database.close()  # who asks it now gets an error
    found = [await ring.find(f"guess {number}") for number in range(100)]
    assert not any(found)


async def test_keys_are_found_again_when_the_database_is(database: Database, monkeypatch: pytest.MonkeyPatch):
    keys = KeyStore(database)
    key, secret = await keys.create("laptop")
    monkeypatch.setattr(keyring, "FRESH_S", 0.05)
    ring = KeyRing(keys)
    database.run_here(lambda connection: connection.execute(text("ALTER TABLE keys RENAME TO away")))
    failed = await asyncio.gather(*(ring.find(secret) for _ in range(5)), return_exceptions=True)
    assert {type(each) for each in failed} == {StoreUnavailable}
    database.run_here(lambda connection: connection.execute(text("ALTER TABLE away RENAME TO keys")))
    async with asyncio.timeout(DEADLINE_S):
        while True:
            with suppress(StoreUnavailable):
                assert await ring.find(secret) == key
                return
            await asyncio.sleep(0.01)
