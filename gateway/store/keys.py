"""Keys by which callers are known: made, listed, revoked. The database has their hashes alone."""

from __future__ import annotations

import hashlib
import secrets
import time
from dataclasses import dataclass

from sqlalchemy import Row, select, update

from gateway.store.database import Database
from gateway.store.tables import KEYS

BEGINNING = "sk-corolla-"
SECRET_BYTES = 32
SHOWN = len(BEGINNING) + 4


@dataclass(frozen=True, slots=True)
class Key:
    """What is known of a key. `prefix` is how it begins; its limits are None where it has none. Times are Unix'."""

    id: str
    name: str
    prefix: str
    created_at: int
    revoked_at: int | None
    requests_per_minute: int | None
    tokens_per_minute: int | None


class KeyStore:
    """Every method raises StoreUnavailable."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def create(
        self, name: str, requests_per_minute: int | None = None, tokens_per_minute: int | None = None
    ) -> tuple[Key, str]:
        """A new key, and its text, which nobody can read again."""
        secret = BEGINNING + secrets.token_urlsafe(SECRET_BYTES)
        key = Key(
            id=f"key_{secrets.token_hex(8)}",
            name=name,
            prefix=secret[:SHOWN],
            created_at=int(time.time()),
            revoked_at=None,
            requests_per_minute=requests_per_minute,
            tokens_per_minute=tokens_per_minute,
        )
        columns = {field: getattr(key, field) for field in Key.__slots__}
        made = KEYS.insert().values(**columns, hash=digest(secret))
        await self._database.run(lambda connection: connection.execute(made))
        return key, secret

    async def all(self) -> list[Key]:
        """Revoked ones too, oldest first."""
        chosen = select(KEYS).order_by(KEYS.c.created_at, KEYS.c.id)
        rows = await self._database.run(lambda connection: connection.execute(chosen).all())
        return [_key(row) for row in rows]

    async def live(self) -> dict[str, Key]:
        """Those that may be used, by their digests. Every request waits for that, so that it goes first."""
        chosen = select(KEYS).where(KEYS.c.revoked_at.is_(None))
        rows = await self._database.run(lambda connection: connection.execute(chosen).all(), first=True)
        return {row.hash: _key(row) for row in rows}

    async def revoke(self, id: str) -> bool:
        """For good. Whether there was one that could be used till now."""
        chosen = update(KEYS).where(KEYS.c.id == id, KEYS.c.revoked_at.is_(None)).values(revoked_at=int(time.time()))
        return bool(await self._database.run(lambda connection: connection.execute(chosen).rowcount))


def digest(secret: str) -> str:
    """SHA-256: 256 random bits cannot be guessed, so that a slow hash would add nothing."""
    return hashlib.sha256(secret.encode(errors="surrogatepass")).hexdigest()


def _key(row: Row[tuple[object, ...]]) -> Key:
    return Key(*(getattr(row, field) for field in Key.__slots__))
