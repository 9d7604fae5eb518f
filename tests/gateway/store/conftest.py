"""A fresh database for each test: SQLite, and PostgreSQL where its server is installed."""

from __future__ import annotations

import os
import pwd
import secrets
import shutil
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from tempfile import mkdtemp

import pytest
from sqlalchemy import URL, create_engine, text

from gateway.store.address import database_url
from gateway.store.database import Database

HOST = "127.0.0.1"
LIMIT_S = 30


@pytest.fixture(scope="session")
def postgresql() -> Iterator[URL]:
    """A server of its own, without what makes a commit durable."""
    binaries = sorted(Path("/usr/lib/postgresql").glob("*/bin/pg_ctl"))
    if not binaries:
        pytest.skip("no PostgreSQL server is installed (on Debian: apt-get install postgresql)")
    binary, user = binaries[-1], _user()
    folder = Path(mkdtemp(prefix="corolla-pg-"))
    with socket.create_server((HOST, 0)) as probe:
        port = probe.getsockname()[1]

    def control(*words: str) -> None:
        subprocess.run([binary, "-D", folder / "data", "-s", *words], user=user, check=True, timeout=LIMIT_S, cwd="/")

    try:
        if user:
            shutil.chown(folder, user)
        control("init", "-o", "--auth=trust --username=corolla --no-sync")
        options = f"-p {port} -c listen_addresses={HOST} -c unix_socket_directories={folder} -c fsync=off"
        control("start", "-w", "-l", str(folder / "log"), "-o", options)
        try:
            yield database_url(f"postgresql://corolla:s3cret@{HOST}:{port}/postgres", folder)
        finally:
            control("stop", "-m", "immediate")
    finally:
        shutil.rmtree(folder)


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> URL:
    """Of a database that holds nothing yet."""
    if request.param == "sqlite":
        return database_url(None, tmp_path)
    server: URL = request.getfixturevalue("postgresql")
    name = f"corolla_{secrets.token_hex(4)}"
    engine = create_engine(server, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.execute(text(f"CREATE DATABASE {name}"))
    engine.dispose()
    return server.set(database=name)


@pytest.fixture
def database(url: URL) -> Iterator[Database]:
    database = Database.open(url)
    yield database
    database.close()


def _user() -> str | None:
    """Whom the server runs as: it refuses root."""
    if os.geteuid():
        return None
    names = {each.pw_name for each in pwd.getpwall()}
    return "postgres" if "postgres" in names else "nobody"
