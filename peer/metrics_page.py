"""`/metrics` on a port of its own: a peer serves no other HTTP, so this is all of it that it speaks."""

from __future__ import annotations

import asyncio
import logging
import socket
from http import HTTPStatus

from prometheus_client import CollectorRegistry

from shared.exposition import CONTENT_TYPE, exposition

logger = logging.getLogger(__name__)

REQUEST_LIMIT = 8 * 1024  # bytes
REQUEST_S = 5.0
CONNECTIONS_LIMIT = 16


class MetricsPage:
    """Answers `GET /metrics` on a socket that listens, and closes each connection after one answer."""

    def __init__(self, registry: CollectorRegistry, listening: socket.socket) -> None:
        self._registry = registry
        self._listening = listening
        self._open = 0

    async def run(self) -> None:
        """Serve until cancelled."""
        async with asyncio.TaskGroup() as answers:
            server = await asyncio.start_server(
                lambda reader, writer: answers.create_task(self._converse(reader, writer)),
                sock=self._listening,
                limit=REQUEST_LIMIT,
            )
            try:
                await asyncio.Event().wait()  # `serve_forever` would wait for open connections when it is cancelled
            finally:
                server.close()

    async def _converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._open += 1
        try:
            if self._open <= CONNECTIONS_LIMIT:
                async with asyncio.timeout(REQUEST_S):
                    writer.write(self._answer(await reader.readuntil(b"\r\n\r\n")))
                    await writer.drain()
        except (OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):  # TimeoutError is an OSError
            pass  # whoever asked does not speak HTTP, or has gone
        except Exception:
            logger.exception("the metrics could not be shown")  # no reason to stop serving blocks
        finally:
            self._open -= 1
            writer.close()

    def _answer(self, request: bytes) -> bytes:
        method, _, rest = request.partition(b" ")
        path = rest.partition(b" ")[0].partition(b"?")[0]
        if method != b"GET":
            return _response(HTTPStatus.METHOD_NOT_ALLOWED, b"GET /metrics\n", "text/plain")
        if path != b"/metrics":
            return _response(HTTPStatus.NOT_FOUND, b"the counters are at /metrics\n", "text/plain")
        return _response(HTTPStatus.OK, exposition(self._registry), CONTENT_TYPE)


def _response(status: HTTPStatus, body: bytes, content_type: str) -> bytes:
    head = (
        f"HTTP/1.1 {status.value} {status.phrase}",
        f"Content-Type: {content_type}",
        f"Content-Length: {len(body)}",
        "Connection: close",
    )
    return "\r\n".join((*head, "", "")).encode() + body
