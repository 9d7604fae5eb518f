"""How long a request may take from its arrival to its end."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import TypeVar

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gateway.api.running import asks_for_work
from shared.errors import DeadlinePassed

Item = TypeVar("Item")

GRACE_S = 1.0  # generation ends by itself at the deadline, and knows better how; this is for all other work
_REASON = "the answer took longer than this gateway lets a request take: ask for fewer tokens, or begin with less text"


class Deadline:
    """ASGI middleware: sets the deadline of what asks for work, and ends what has not begun to answer by then."""

    def __init__(self, app: ASGIApp, seconds: float) -> None:
        self._app = app
        self._seconds = seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Raises DeadlinePassed."""
        if not asks_for_work(scope):
            await self._app(scope, receive, send)
            return
        deadline = asyncio.get_running_loop().time() + self._seconds
        scope.setdefault("state", {})["deadline"] = deadline
        limit = asyncio.timeout_at(deadline + GRACE_S)

        async def send_unlimited(message: Message) -> None:
            if not limit.expired():
                limit.reschedule(None)  # a stream that has begun tells its end itself
            await send(message)

        try:
            async with limit:
                await self._app(scope, receive, send_unlimited)
        except TimeoutError as error:
            if limit.expired():
                raise DeadlinePassed(_REASON) from error
            raise


def deadline_in(scope: Scope) -> float | None:
    """By the event loop's clock; None where there is none."""
    return scope.get("state", {}).get("deadline")


async def until(deadline: float | None, items: AsyncGenerator[Item, None]) -> AsyncGenerator[Item, None]:
    """The same items. Raises DeadlinePassed, when the generator has cleaned up."""
    async with aclosing(items):
        while True:
            limit = asyncio.timeout_at(deadline)
            try:
                async with limit:
                    item = await anext(items)
            except StopAsyncIteration:
                return
            except TimeoutError as error:
                if limit.expired():
                    raise DeadlinePassed(_REASON) from error
                raise
            yield item
