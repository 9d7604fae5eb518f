"""The keys that may be used now, held in memory: a key that is made or revoked elsewhere counts within a second."""

from __future__ import annotations

import asyncio
import time

from gateway.store.keys import Key, KeyStore, digest
from shared.errors import StoreUnavailable

FRESH_S = 1.0
UNKNOWN_FRESH_S = 0.1  # who has just made a key uses it at once; guesses still share ten questions a second


class KeyRing:
    """Finds keys by their text. All are read together, so that no guess is a question to the database."""

    def __init__(self, keys: KeyStore) -> None:
        self._keys = keys
        self._live: dict[str, Key] = {}
        self._read_at = float("-inf")
        self._again_at = float("-inf")
        self._reading = asyncio.Lock()

    async def find(self, secret: str) -> Key | None:
        """None for what is no key, or revoked. Raises StoreUnavailable."""
        hashed = digest(secret)
        await self._refresh(FRESH_S if hashed in self._live else UNKNOWN_FRESH_S)
        return self._live.get(hashed)

    async def _refresh(self, fresh_s: float) -> None:
        async with self._reading:
            now = time.monotonic()
            if now - self._read_at <= fresh_s:
                return
            if now < self._again_at:  # those who have waited for the same failure do not wait for another one each
                raise StoreUnavailable("the gateway's database does not answer now: try again")
            try:
                self._live = await self._keys.live()
            except StoreUnavailable:
                self._again_at = time.monotonic() + FRESH_S
                raise
            self._read_at = now
