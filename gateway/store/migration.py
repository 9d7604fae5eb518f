"""Bringing a database to this program's tables: by one process at a time, and never backwards."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.resources import as_file, files

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from filelock import FileLock, Timeout
from sqlalchemy import Connection, Engine, text

from shared.errors import UsageError

LOCK_S = 60
_ADVISORY_LOCK = 0x436F726F6C6C61  # "Corolla": PostgreSQL's advisory locks are numbers

logging.getLogger("alembic").setLevel(logging.WARNING)


def migrate(engine: Engine) -> None:
    """Make or change the tables as this program needs them. Raises UsageError for a newer program's database."""
    with as_file(files("gateway.store") / "migrations") as folder:
        config = Config()
        config.set_main_option("script_location", str(folder).replace("%", "%%"))
        known = {each.revision for each in ScriptDirectory.from_config(config).walk_revisions()}
        with engine.connect() as connection, _alone(connection):
            at = MigrationContext.configure(connection).get_current_revision()
            if at is not None and at not in known:
                raise UsageError(f"the database is of a newer Corolla (its tables are {at[:40]!r}): update this one")
            config.attributes["connection"] = connection
            command.upgrade(config, "head")
            connection.commit()


@contextmanager
def _alone(connection: Connection) -> Iterator[None]:
    """Holds the one lock of a database among all processes that migrate. Raises UsageError after LOCK_S."""
    if connection.dialect.name == "postgresql":
        connection.execute(text(f"SET LOCAL lock_timeout = '{LOCK_S}s'"))
        connection.execute(text("SET LOCAL statement_timeout = 0"))  # a large table takes its time
        connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _ADVISORY_LOCK})
        yield  # the lock ends with the transaction
        return
    lock = FileLock(f"{connection.engine.url.database}.lock", mode=0o600)
    try:
        lock.acquire(timeout=LOCK_S)
    except Timeout as error:
        raise UsageError(f"another process has been changing {lock.lock_file[:-5]} for {LOCK_S} s") from error
    try:
        yield
    finally:
        lock.release()
