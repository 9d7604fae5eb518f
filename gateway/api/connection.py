"""A client's connection, which may not stay silent: what uvicorn's own leaves open."""

from __future__ import annotations

import asyncio
import json

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

HEAD_S = 30.0  # from its first byte, or from the connection's begin, a request's head must arrive within that
SEND_S = 60.0  # a client that takes nothing of what waits for it is left after that


class Connection(H11Protocol):
    """HTTP/1.1 with bounded heads. One that no request occupies is closed HEAD_S after it last was.

    One that is not read is cut SEND_S after its buffer was full, or after it should have closed.
    h11 rather than another parser: it bounds the size of a head.
    """

    def connection_made(self, transport: asyncio.Transport) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        super().connection_made(transport)
        self._closing: asyncio.TimerHandle | None = None
        self._cutting: asyncio.TimerHandle | None = None
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._stop()
        self._spare()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._cut_later()

    def resume_writing(self) -> None:
        super().resume_writing()
        self._spare()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._watch()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._watch()

    def send_400_response(self, msg: str) -> None:
        """What is no HTTP gets an error of OpenAI's shape too, unless an answer was sent already."""
        if self.conn.our_state not in (h11.IDLE, h11.SEND_RESPONSE):
            self.transport.close()
            return
        error = {"message": "this is no valid HTTP/1.1", "type": "invalid_request_error", "param": None, "code": None}
        body = json.dumps({"error": error}).encode()
        headers = [("content-type", "application/json"), ("content-length", str(len(body))), ("connection", "close")]
        answer = (h11.Response(status_code=400, headers=headers), h11.Data(data=body), h11.EndOfMessage())
        for event in answer:
            self.transport.write(self.conn.send(event) or b"")
        self.transport.close()

    def _watch(self) -> None:
        """The time runs while no request is being answered, and does not begin anew with each byte."""
        if self.cycle is not None and not self.cycle.response_complete:
            self._stop()
        elif self._closing is None:
            self._closing = self.loop.call_later(HEAD_S, self._close)

    def _close(self) -> None:
        self.transport.close()  # which waits until the client has taken all
        self._cut_later()

    def _stop(self) -> None:
        if self._closing:
            self._closing.cancel()
            self._closing = None

    def _cut_later(self) -> None:
        if self._cutting is None:
            self._cutting = self.loop.call_later(SEND_S, self.transport.abort)

    def _spare(self) -> None:
        if self._cutting:
            self._cutting.cancel()
            self._cutting = None
