"""A gateway's store, whole: its database, and what is in it; kept up while the gateway runs."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

from gateway.store.address import database_url
from gateway.store.database import Database
from gateway.store.keys import KeyStore
from gateway.store.responses import ResponseStore
from gateway.store.usage import Ledger, UsageStore
from shared.errors import StoreUnavailable
from shared.program import beside

FLUSH_S = 5.0
PRUNE_S = 300.0
CLOSE_S = 10.0  # at the end, which a database that says nothing must not hold up

logger = logging.getLogger(__name__)


class Store:
    """What a gateway keeps. To be closed at the end, which adds what was counted last."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self.keys = KeyStore(database)
        self.usage = UsageStore(database)
        self.responses = ResponseStore(database)
        self.ledger = Ledger(self.usage)

    @classmethod
    def open(cls, given: str | None, state_dir: Path) -> Store:
        """The database that `--database` names, or the state folder's. Blocks. Raises UsageError."""
        return cls(Database.open(database_url(given, state_dir)))

    async def keep(self) -> None:
        """For ever: bring what was counted into the database, and prune old responses. A failure is tried again."""
        pruned_at = float("-inf")
        while True:
            with suppress(StoreUnavailable):  # the database has logged it
                await self.ledger.flush()
                if time.monotonic() - pruned_at > PRUNE_S:
                    await self.responses.prune()
                    pruned_at = time.monotonic()
            await asyncio.sleep(FLUSH_S)

    def close(self) -> None:
        """Blocks for as long as the database takes."""
        with suppress(StoreUnavailable):
            self.ledger.flush_here()
        self._database.close()


@asynccontextmanager
async def opened_store(given: str | None, state_dir: Path) -> AsyncIterator[Store]:
    """A store for as long as the context lasts. Raises UsageError."""
    store = await beside(Store.open, given, state_dir)
    try:
        yield store
    finally:
        try:
            await asyncio.wait_for(beside(store.close), CLOSE_S)
        except TimeoutError:
            logger.warning("the database has said nothing for %g s: what was counted last is lost", CLOSE_S)
