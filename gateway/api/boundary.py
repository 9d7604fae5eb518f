"""Around every request: its id, and an answer where the code inside has failed unexpectedly."""

from __future__ import annotations

import secrets

from starlette.datastructures import MutableHeaders
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gateway.api.errors import reply_to


class Boundary:
    """ASGI middleware: sets `x-request-id`, and turns an unexpected exception into an error of OpenAI's shape."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = False

        async def send_with_id(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                MutableHeaders(scope=message)["x-request-id"] = f"req_{secrets.token_hex(12)}"
            await send(message)

        try:
            await self._app(scope, receive, send_with_id)
        except Exception as error:  # noqa: BLE001  the outermost edge: whatever it is, the client gets an answer
            reply = reply_to(error)
            if not started:
                response = JSONResponse(reply.body, reply.status, reply.headers)
                await response(scope, receive, send_with_id)
            # After the start only an unfinished body can tell the client, and the server makes that by itself.
