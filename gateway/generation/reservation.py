"""A session's room in its chain's caches, kept ahead of its tokens."""

from __future__ import annotations

import asyncio
from typing import Protocol

AHEAD_TOKENS = 1024
"""What a session asks for at once, beyond the tokens that it has."""

LOW_TOKENS = 256  # left of the reservation: time to ask for more
AGAIN_TOKENS = 64  # after a refusal, so many more tokens are made before the next question, which asks for so many


class Extendable(Protocol):
    """What is needed of a chain."""

    @property
    def reserve(self) -> int:
        """Tokens that every hop holds for the session."""
        ...

    async def extend(self, reserve: int) -> bool:
        """Asks every hop to hold `reserve` tokens; False when one refuses. Raises HopFailed."""
        ...


class Reservation:
    """Asks for more in the background, while decoding goes on; leaving it ends that."""

    def __init__(self, chain: Extendable, limit: int) -> None:
        """The session never has more than `limit` tokens."""
        self._chain = chain
        self._limit = limit
        self._asking: asyncio.Task[bool] | None = None
        self._next_question = 0
        self._more = AHEAD_TOKENS

    async def __aenter__(self) -> Reservation:
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._asking:
            self._asking.cancel()
            await asyncio.gather(self._asking, return_exceptions=True)  # a hop that failed fails the chain too

    async def holds(self, tokens: int) -> bool:
        """False when there is no room for so many tokens, and the hops promise no more. Raises HopFailed."""
        if self._asking is None and self._is_low(tokens):
            wanted = min(self._limit, self._chain.reserve + self._more)
            self._asking = asyncio.create_task(self._chain.extend(wanted))
            self._next_question = tokens + AGAIN_TOKENS
        if self._asking and (self._asking.done() or tokens > self._chain.reserve):
            self._more = AHEAD_TOKENS if await self._asking else AGAIN_TOKENS
            self._asking = None
        return tokens <= self._chain.reserve

    def _is_low(self, tokens: int) -> bool:
        reserve = self._chain.reserve
        return reserve < self._limit and reserve - tokens < LOW_TOKENS and tokens >= self._next_question
