"""Where the database is: a file in the state folder, or what `--database` says."""

from __future__ import annotations

import os
from pathlib import Path

from sqlalchemy import URL, make_url
from sqlalchemy.exc import ArgumentError

from shared.errors import UsageError

FILE = "gateway.db"
_DRIVERS = {"sqlite": "sqlite+pysqlite", "postgresql": "postgresql+psycopg", "postgres": "postgresql+psycopg"}


def database_url(given: str | None, state_dir: Path) -> URL:
    """The address with its driver. Raises UsageError, whose sentence holds no password."""
    if given is None:
        return URL.create("sqlite+pysqlite", database=str(state_dir / FILE))
    try:
        url = make_url(given)
    except ArgumentError as error:
        raise UsageError(
            "--database is not a URL such as postgresql://USER:PASSWORD@HOST/NAME or sqlite:////var/lib/corolla.db"
        ) from error
    driver = _DRIVERS.get(url.drivername, url.drivername)
    if driver not in _DRIVERS.values():
        raise UsageError(f"--database: {url.drivername} is not supported; PostgreSQL and SQLite are")
    if driver == "sqlite+pysqlite" and (not url.database or url.database.startswith((":memory:", "file:"))):
        raise UsageError("--database: SQLite needs a file, as in sqlite:////var/lib/corolla.db")
    return url.set(drivername=driver)


def make_file(url: URL) -> None:
    """The file of an SQLite database and its folder, for their owner's eyes alone. Raises UsageError."""
    assert url.database
    path = Path(url.database)
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        os.close(os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600))
    except OSError as error:
        raise UsageError(f"the database {path} cannot be written: {error.strerror}; pass --database") from error
