"""A request as the counters see it: when its tokens come, and how it ends."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing

from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from gateway.api.errors import reply_to
from gateway.generation.completion import Piece
from gateway.metrics import RequestCount
from shared.errors import CorollaError, NoRoute


class Observation:
    """One request. `closing` is set when the program ends: what is cut then was not left by its client."""

    def __init__(self, count: RequestCount, closing: asyncio.Event) -> None:
        self._count = count
        self._closing = closing

    def asks(self, model: str) -> None:
        """It names a model that is served here."""
        self._count.asks(model)

    def accepted(self, prompt_tokens: int) -> None:
        """Nothing is wrong with it: it will be answered, if the swarm can."""
        self._count.accepted(prompt_tokens)

    async def watch(self, pieces: AsyncGenerator[Piece, None]) -> AsyncGenerator[Piece, None]:
        """The same pieces, counted when they come; the request ends with them."""
        try:
            async with aclosing(pieces):
                async for piece in pieces:
                    self._count.made(piece.tokens)
                    yield piece
        except BaseException as error:
            self.failed(error)
            raise
        self._count.ended("ok")

    def failed(self, error: BaseException) -> None:
        """It ends without a whole answer. Once it has ended, this changes nothing."""
        if isinstance(error, NoRoute):
            self._count.asks(error.model)  # raised for served models alone
        self._count.ended(self._outcome(error))

    def _outcome(self, error: BaseException) -> str:
        """The code that the client is told, or why nobody can be told."""
        if isinstance(error, CorollaError | HTTPException):
            return reply_to(error).code or "invalid_request"
        if isinstance(error, ClientDisconnect | asyncio.CancelledError | GeneratorExit):
            return "shutting_down" if self._closing.is_set() else "client_gone"
        return "internal_error"
