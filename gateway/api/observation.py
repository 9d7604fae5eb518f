"""A request as it is counted and charged: when its tokens come, and how it ends, at its deadline at the latest."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import TypeVar

from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from gateway.api.charges import Charge
from gateway.api.deadline import until
from gateway.api.errors import reply_to
from gateway.generation.completion import Piece
from gateway.metrics import RequestCount
from shared.errors import CorollaError, NoRoute

Item = TypeVar("Item")


class Observation:
    """One request. `closing` is set when the program ends: what is cut then was not left by its client.

    `deadline` is by the event loop's clock.
    """

    def __init__(self, count: RequestCount, closing: asyncio.Event, charge: Charge, deadline: float | None) -> None:
        self._count = count
        self._closing = closing
        self._charge = charge
        self._deadline = deadline

    def asks(self, model: str) -> None:
        """It names a model that is served here."""
        self._count.asks(model)
        self._charge.model = model

    def accepted(self, prompt_tokens: int) -> None:
        """Nothing is wrong with it: it will be answered, if the swarm can."""
        self._count.accepted(prompt_tokens)
        self._charge.prompt_tokens = prompt_tokens

    def begun(self) -> None:
        """The swarm has room for it: until then it costs nothing."""
        self._charge.begun()

    async def watch(self, items: AsyncGenerator[Item, None]) -> AsyncGenerator[Item, None]:
        """The same items, whose tokens are counted; the request ends with them. Raises DeadlinePassed."""
        try:
            async with aclosing(until(self._deadline, items)) as timely:
                async for item in timely:
                    if isinstance(item, Piece):  # nothing else has tokens that were made
                        self._made(len(item.tokens))
                    yield item
        except BaseException as error:
            self.failed(error)
            raise
        self._count.ended("ok")

    def _made(self, tokens: int) -> None:
        self._count.made(tokens)
        self._charge.made(tokens)

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
