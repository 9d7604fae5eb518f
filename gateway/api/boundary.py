"""Around every request: the headers of its answer, and an answer where something inside refuses it or fails."""

from __future__ import annotations

import secrets
import time

from starlette.datastructures import MutableHeaders
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gateway.api.errors import reply_to
from gateway.api.limits import rate_headers

API_VERSION = "2020-10-01"  # OpenAI's, which some clients log
HEADERS = ("x-request-id", "openai-processing-ms", "openai-version")


class Boundary:
    """ASGI middleware: sets HEADERS and what a caller is told of its limits; an exception becomes OpenAI's error."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started, arrived_at = False, time.perf_counter()

        async def send_with_headers(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                MutableHeaders(scope=message).update(_headers(arrived_at) | rate_headers(scope))
            await send(message)

        try:
            await self._app(scope, receive, send_with_headers)
        except Exception as error:  # noqa: BLE001  the outermost edge: whatever it is, the client gets an answer
            reply = reply_to(error)
            if not started:
                response = JSONResponse(reply.body, reply.status, reply.headers)
                await response(scope, receive, send_with_headers)
            # After the start only an unfinished body can tell the client, and the server makes that by itself.


def _headers(arrived_at: float) -> dict[str, str]:
    values = (f"req_{secrets.token_hex(12)}", str(round(1000 * (time.perf_counter() - arrived_at))), API_VERSION)
    return dict(zip(HEADERS, values, strict=True))
