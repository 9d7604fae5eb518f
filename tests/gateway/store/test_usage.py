"""What keys have used: counted in memory, added up in the database."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import pytest
from sqlalchemy import text

from gateway.store.database import Database
from gateway.store.store import Store
from gateway.store.usage import Account, Ledger, UsageStore, Used
from shared.errors import StoreUnavailable

DAY = date(2026, 1, 31)


def test_gateways_that_add_at_once_lose_nothing(database: Database):
    usage = UsageStore(database)
    counted = {Account("key_1", DAY, model): Used(1, 10, 100) for model in ("b", "a", "c")}
    with ThreadPoolExecutor(4) as threads:
        list(threads.map(usage.add_here, [counted] * 20))
    assert asyncio.run(usage.since(DAY)) == {account: Used(20, 200, 2000) for account in counted}


async def test_usage_is_summed_by_key_since_a_day(database: Database):
    usage = UsageStore(database)
    days = [DAY - timedelta(1), DAY, DAY + timedelta(1)]
    usage.add_here({Account("key_1", day, model): Used(1, 2, 3) for day in days for model in ("a", "b")})
    usage.add_here({Account("key_2", DAY, "a"): Used(5, 5, 5)})
    assert await usage.by_key(DAY) == {"key_1": Used(4, 8, 12), "key_2": Used(5, 5, 5)}


async def test_what_was_counted_is_in_the_database_after_the_end(tmp_path: Path):
    store = Store.open(None, tmp_path)
    store.ledger.note("key_1", "org/model", Used(requests=1, prompt_tokens=3))
    store.ledger.note("key_1", "org/model", Used(completion_tokens=4))
    store.ledger.note("", "org/model", Used(completion_tokens=4))
    store.close()
    again = Store.open(None, tmp_path)
    today = datetime.now(UTC).date()
    assert await again.usage.since(today - timedelta(1)) == {Account("key_1", today, "org/model"): Used(1, 3, 4)}
    again.close()


async def test_what_cannot_be_added_now_is_added_later(database: Database):
    usage = UsageStore(database)
    ledger = Ledger(usage)
    database.run_here(lambda connection: connection.execute(text("ALTER TABLE usage RENAME TO away")))
    ledger.note("key_1", "m", Used(requests=1))
    with pytest.raises(StoreUnavailable):
        await ledger.flush()
    ledger.note("key_1", "m", Used(requests=1))
    database.run_here(lambda connection: connection.execute(text("ALTER TABLE away RENAME TO usage")))
    await ledger.flush()
    assert [used.requests for used in (await usage.since(DAY)).values()] == [2]
