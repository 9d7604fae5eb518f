"""Opening a database: made, brought up to date, by several programs at once, and refused with a sentence."""

from __future__ import annotations

import asyncio
import sqlite3
import stat
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import URL, text

from gateway.store import database as opened
from gateway.store import store
from gateway.store.address import database_url
from gateway.store.database import Database
from gateway.store.tables import METADATA
from gateway.store.usage import Used
from shared.errors import StoreUnavailable, UsageError

DEADLINE_S = 10


def test_migrations_make_the_tables_that_the_program_uses(database: Database):
    differences = database.run_here(
        lambda connection: compare_metadata(MigrationContext.configure(connection), METADATA)
    )
    assert differences == []


def test_programs_that_start_at_once_share_a_new_database(url: URL):
    with ThreadPoolExecutor(6) as threads:
        opened = list(threads.map(Database.open, [url] * 6))
    for database in opened:
        assert database.run_here(lambda connection: connection.execute(text("SELECT count(*) FROM keys")).scalar()) == 0
        database.close()


def test_a_newer_program_s_database_is_refused(url: URL):
    database = Database.open(url)
    database.run_here(lambda connection: connection.execute(text("UPDATE alembic_version SET version_num = '9999'")))
    database.close()
    with pytest.raises(UsageError, match="newer Corolla"):
        Database.open(url)


async def test_a_failing_statement_is_told_without_its_values(database: Database):
    with pytest.raises(StoreUnavailable) as failed:
        await database.run(lambda connection: connection.execute(text("SELECT :word FROM none"), {"word": "s3cret"}))
    assert "s3cret" not in str(failed.value) + str(failed.value.__cause__)


def test_a_file_is_for_its_owner_alone(tmp_path: Path):
    Database.open(database_url(None, tmp_path / "new")).close()
    assert stat.S_IMODE((tmp_path / "new" / "gateway.db").stat().st_mode) == 0o600


def test_a_server_that_is_not_there_is_told_without_the_password(tmp_path: Path):
    with pytest.raises(UsageError, match="cannot be used") as refused:
        Database.open(database_url("postgresql://corolla:s3cret@127.0.0.1:1/corolla", tmp_path))
    assert "s3cret" not in str(refused.value)


@pytest.mark.parametrize(
    "given", ["postgresql://127.0.0.1:1/d?user=corolla&password=s3cret", "postgresql:///d?s3cret=1"]
)
def test_what_a_query_holds_is_not_told(given: str, tmp_path: Path):
    with pytest.raises(UsageError, match="cannot be used") as refused:
        Database.open(database_url(given, tmp_path))
    assert "password" not in str(refused.value)


async def test_a_database_that_says_nothing_is_not_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(opened, "ANSWER_S", 0.1)
    database, woken = Database.open(database_url(None, tmp_path)), threading.Event()
    asked = [database.run(lambda connection: woken.wait(DEADLINE_S)) for _ in range(opened.THREADS + 2)]
    failed = await asyncio.gather(*asked, return_exceptions=True)
    assert {type(each) for each in failed} == {StoreUnavailable}
    assert await database.run(lambda connection: "told", first=True) == "told"
    woken.set()
    monkeypatch.setattr(opened, "ANSWER_S", DEADLINE_S)
    assert await database.run(lambda connection: "told") == "told"
    database.close()


async def test_a_database_that_says_nothing_does_not_hold_up_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(store, "CLOSE_S", 0.1)
    with closing(sqlite3.connect(tmp_path / "gateway.db", isolation_level=None)) as other:
        async with asyncio.timeout(DEADLINE_S), store.opened_store(None, tmp_path) as kept:
            kept.ledger.note("key_1", "m", Used(requests=1))
            other.execute("BEGIN IMMEDIATE")
            started = time.monotonic()
        assert time.monotonic() - started < opened.BUSY_S / 2


@pytest.mark.parametrize(
    "given", ["", "nothing", "mysql://h/d", "sqlite://", "sqlite:///:memory:", "postgresql+asyncpg://h/d"]
)
def test_other_addresses_are_refused(given: str, tmp_path: Path):
    with pytest.raises(UsageError, match="--database"):
        database_url(given, tmp_path)


def test_a_folder_that_cannot_be_written_is_told(tmp_path: Path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="cannot be written"):
        Database.open(database_url(None, tmp_path / "file"))
