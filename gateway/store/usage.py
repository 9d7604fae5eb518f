"""What each key has used, by day and model: counted in memory, and added to the database now and then."""

from __future__ import annotations

import asyncio
import threading
from dataclasses import dataclass
from datetime import UTC, date, datetime

from sqlalchemy import Connection, func, select

from gateway.store.database import ANSWER_S, Database, insert
from gateway.store.tables import USAGE
from shared.errors import StoreUnavailable
from shared.program import beside

_COUNTS = ("requests", "prompt_tokens", "completion_tokens")


@dataclass(slots=True)
class Used:
    """So much was used."""

    requests: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0

    def add(self, other: Used) -> None:
        """That much more."""
        self.requests += other.requests
        self.prompt_tokens += other.prompt_tokens
        self.completion_tokens += other.completion_tokens


@dataclass(frozen=True, slots=True, order=True)
class Account:
    """Who has used it, when (a day of UTC), and of which model."""

    key: str
    day: date
    model: str


class UsageStore:
    """Every method raises StoreUnavailable."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def add_here(self, used: dict[Account, Used]) -> None:
        """On top of what is there, whoever else adds at the same time. In this thread, which it blocks."""
        self._database.run_here(lambda connection: _add(connection, used))

    async def since(self, day: date) -> dict[Account, Used]:
        """All that was used on that day and later."""
        chosen = select(USAGE).where(USAGE.c.day >= day)
        rows = await self._database.run(lambda connection: connection.execute(chosen).all())
        return {
            Account(row.key_id, row.day, row.model): Used(row.requests, row.prompt_tokens, row.completion_tokens)
            for row in rows
        }

    async def by_key(self, day: date) -> dict[str, Used]:
        """What each key has used on that day and later."""
        sums = (func.sum(USAGE.c[name]).label(name) for name in _COUNTS)
        chosen = select(USAGE.c.key_id, *sums).where(USAGE.c.day >= day).group_by(USAGE.c.key_id)
        rows = await self._database.run(lambda connection: connection.execute(chosen).all())
        return {row[0]: Used(*(int(count) for count in row[1:])) for row in rows}


class Ledger:
    """What was used and is not in the database yet. Without a store, nothing is kept. Threads may share it."""

    def __init__(self, store: UsageStore | None = None) -> None:
        self._store = store
        self._pending: dict[Account, Used] = {}
        self._changing = threading.Lock()
        self._flushing = threading.Lock()

    def note(self, key: str, model: str, used: Used) -> None:
        """Those without a key are nobody in particular, and not counted."""
        if self._store and key:
            with self._changing:
                self._pending.setdefault(Account(key, datetime.now(UTC).date(), model), Used()).add(used)

    async def flush(self) -> None:
        """Add it to the database, to the end even if cancelled. Raises StoreUnavailable: then it is kept for later."""
        if self._flushing.locked():
            raise StoreUnavailable("the database has not taken yet what was counted before")
        try:
            await asyncio.wait_for(beside(self.flush_here), ANSWER_S)
        except TimeoutError as error:
            raise StoreUnavailable("the database does not take what was counted") from error

    def flush_here(self) -> None:
        """The same in this thread, which it blocks: the last act of a program."""
        if not self._store:
            return
        with self._flushing:
            with self._changing:
                taken, self._pending = self._pending, {}
            try:
                if taken:
                    self._store.add_here(taken)
            except BaseException:
                self._take_back(taken)
                raise

    def _take_back(self, taken: dict[Account, Used]) -> None:
        with self._changing:
            for account, used in taken.items():
                self._pending.setdefault(account, Used()).add(used)


def _add(connection: Connection, used: dict[Account, Used]) -> None:
    added = insert(connection, USAGE)
    sums = {name: USAGE.c[name] + added.excluded[name] for name in _COUNTS}
    rows = [
        {"key_id": each.key, "day": each.day, "model": each.model, **{name: getattr(count, name) for name in _COUNTS}}
        for each, count in sorted(used.items(), key=lambda item: item[0])  # in one order: two gateways cannot deadlock
    ]
    connection.execute(added.on_conflict_do_update(index_elements=["key_id", "day", "model"], set_=sums), rows)
