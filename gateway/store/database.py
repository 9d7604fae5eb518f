"""The database: opened, brought up to date, and asked from threads, so that the event loop never waits for it."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any, TypeVar

from sqlalchemy import URL, Connection, Engine, Table, create_engine, event
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from gateway.store.address import make_file
from gateway.store.migration import migrate
from gateway.store.workers import Workers
from shared.errors import StoreUnavailable, UsageError

Result = TypeVar("Result")

THREADS = 4
CONNECT_S = 5
BUSY_S = 5  # how long a writer waits for another process's, such as `gateway keys`
STATEMENT_S = 8  # PostgreSQL ends a statement itself then, and the system a connection that has lost its other end
ANSWER_S = 10.0  # a server that says nothing at all is waited for no longer
END_S = 5.0
CONNECTIONS = THREADS + 2  # one for what goes first, one for the ledger
_POSTGRESQL: dict[str, Any] = {
    "connect_timeout": CONNECT_S,
    "tcp_user_timeout": 1000 * STATEMENT_S,
    "options": f"-c statement_timeout={STATEMENT_S}s",
}
_AWAY = "the gateway's database does not answer now: try again"

logger = logging.getLogger(__name__)


class Database:
    """An open database with this program's tables. `work` is done in a transaction, in a thread."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._workers = Workers(THREADS, "database")
        self._first = Workers(1, "database-first")

    @classmethod
    def open(cls, url: URL) -> Database:
        """Blocks while it connects and migrates. Raises UsageError, whose sentence holds no password."""
        shown = url.set(query={}).render_as_string(hide_password=True)  # a query may hold a password too
        try:
            engine = _engine(url)
            migrate(engine)
        except ImportError as error:
            raise UsageError(f"--database {shown} needs psycopg: pip install 'corolla[postgresql]'") from error
        except SQLAlchemyError as error:
            raise UsageError(f"the database {shown} cannot be used: {_reason(error, url)}") from error
        return cls(engine)

    async def run(self, work: Callable[[Connection], Result], *, first: bool = False) -> Result:
        """What `work` returns, its transaction committed. Raises StoreUnavailable, and what `work` raises.

        What goes `first` does not wait for the rest: it has a thread of its own. StoreUnavailable comes after ANSWER_S
        at the latest; work that had begun may still be done.
        """
        workers = self._first if first else self._workers
        try:
            return await workers.run(lambda: self.run_here(work), ANSWER_S)
        except TimeoutError as error:
            logger.warning("the database has said nothing for %g s", ANSWER_S)
            raise StoreUnavailable(_AWAY) from error

    def run_here(self, work: Callable[[Connection], Result]) -> Result:
        """The same in this thread, which it blocks."""
        try:
            with self._engine.begin() as connection:
                return work(connection)
        except SQLAlchemyError as error:
            kind = type(error.orig if isinstance(error, DBAPIError) and error.orig else error).__name__
            logger.warning("the database failed: %s", kind)  # its text may quote what was to be stored
            raise StoreUnavailable(_AWAY) from error

    def close(self) -> None:
        """Waits for what is being done, for END_S at most."""
        self._workers.end(END_S)
        self._first.end(END_S)
        self._engine.dispose()


def insert(connection: Connection, table: Table) -> sqlite.Insert | postgresql.Insert:
    """An INSERT that knows ON CONFLICT, in the connection's dialect."""
    return (postgresql if connection.dialect.name == "postgresql" else sqlite).insert(table)


def _engine(url: URL) -> Engine:
    if url.get_backend_name() == "postgresql":
        connect = {name: value for name, value in _POSTGRESQL.items() if name not in url.query}
        return create_engine(url, hide_parameters=True, pool_size=CONNECTIONS, pool_pre_ping=True, connect_args=connect)
    make_file(url)
    engine = create_engine(url, hide_parameters=True, pool_size=CONNECTIONS, connect_args={"timeout": BUSY_S})
    event.listen(engine, "connect", _prepare_sqlite)
    return engine


def _prepare_sqlite(connection: Any, _record: object) -> None:
    """Readers beside a writer; whole after a crash of this program, and of the machine but for the last moments."""
    for pragma in ("journal_mode = WAL", "synchronous = NORMAL"):
        connection.execute(f"PRAGMA {pragma}").close()


def _reason(error: SQLAlchemyError, url: URL) -> str:
    """What the driver says, in a line, without the password and the query's values even if it quotes them."""
    said = str(error.orig if isinstance(error, DBAPIError) and error.orig else error)
    line = next((line.strip() for line in said.splitlines() if line.strip()), type(error).__name__)
    values = (value for given in url.query.values() for value in ((given,) if isinstance(given, str) else given))
    for secret in sorted({url.password or "", *values} - {""}, key=len, reverse=True):
        line = line.replace(secret, "***")
    return line
