"""Links: connections between two nodes that carry frames. `shared.handshake` makes and authenticates them.

Readers never pause: what keeps memory bounded is the window of each edge.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from contextlib import suppress
from dataclasses import dataclass
from typing import Literal, Protocol, TypeVar, cast

from shared.errors import (
    CorollaError,
    DeadlinePassed,
    FrameError,
    IsShunned,
    LinkLost,
    ProtocolError,
    Refused,
    VersionMismatch,
)
from shared.refusals import Refusals
from shared.types import PeerId
from shared.wire import LENGTH, AnyMessage, Failure, Message, check_total, decode_frame, encode_frame

Role = Literal["control", "data"]
M = TypeVar("M", bound=Message)

HANDSHAKE_S = 10.0
HANDSHAKE_FRAME_LIMIT = 8 * 1024
UNREAD_LIMIT = 16 * 1024 * 1024  # bytes; windows and pings stay far below
_NOBODY = PeerId("")


class Handler(Protocol):
    """What a link tells its owner. Both are called on the event loop and must not block."""

    def received(self, link: Link, message: AnyMessage, payload: memoryview) -> None:
        """A frame came in; a ProtocolError raised here is told to the other side and ends the link."""
        ...

    def lost(self, link: Link, reason: str) -> None: ...


@dataclass(slots=True)
class Traffic:
    """Bytes of frames, whole, that all links which share it have carried; TLS comes on top."""

    sent_bytes: int = 0
    received_bytes: int = 0


class Link(asyncio.BufferedProtocol):
    """One connection, once its handshake is over. `peer` is proven; `heard_at` is when its last byte came."""

    def __init__(self, traffic: Traffic | None = None, refusals: Refusals | None = None) -> None:
        self._traffic = traffic or Traffic()
        self._refusals = refusals or Refusals()
        self.peer = _NOBODY
        self.role: Role = "control"
        self.heard_at = time.monotonic()
        self.closed = False  # ended, here or there: nothing can be sent any more
        self._handler: Handler | None = None
        self._early: deque[tuple[AnyMessage, memoryview]] = deque()
        self._changed = asyncio.Event()
        self._length = bytearray(LENGTH.size)
        self._buffer = self._length
        self._filled = 0
        self._reason = ""

    def __repr__(self) -> str:
        return f"<{self.role} link to {self.peer or 'somebody'}>"

    # What the owner does

    def start(self, handler: Handler) -> None:
        """From now on `handler` hears of frames; those that came before are told first."""
        self._handler = handler
        try:
            while self._early and not self.closed:
                self._tell(*self._early.popleft())
        except CorollaError as error:
            self.refuse(error)
        if self.closed:
            handler.lost(self, self._reason)

    def send(self, message: Message, payload: bytes | memoryview = b"") -> None:
        """Queue one frame. Raises LinkLost when the link has ended."""
        if self.closed:
            raise LinkLost(f"the link to {self.peer} has ended: {self._reason}")
        if self._transport.get_write_buffer_size() > UNREAD_LIMIT:
            self.abort("the other side does not read")
            raise LinkLost(f"{self.peer} does not read what it is sent")
        frame = encode_frame(message, payload)
        self._traffic.sent_bytes += len(frame)
        self._transport.write(frame)

    def tell(self, message: Message) -> None:
        """Send what a link that has ended need not hear."""
        if not self.closed:
            with suppress(LinkLost):
                self.send(message)

    def close(self, reason: str = "closed here") -> None:
        """End the link after what was sent has left."""
        self._reason = self._reason or reason
        self.closed = True
        self._transport.close()

    def abort(self, reason: str) -> None:
        """End the link at once."""
        self._reason = self._reason or reason
        self.closed = True
        self._transport.abort()

    def refuse(self, error: CorollaError) -> None:
        """Tell the other side what it broke, and end the link; it is counted, and held against who is proven."""
        self._hold(error)
        if not self.closed:
            self.tell(Failure(code=_code(error), reason=str(error)[:1000]))
            self.close(str(error))

    async def expect(self, kind: type[M], deadline_s: float = HANDSHAKE_S) -> M:
        """The next frame, a `kind`; only before `start`. Raises ProtocolError, LinkLost, DeadlinePassed."""
        try:
            async with asyncio.timeout(deadline_s):
                while not self._early:
                    if self.closed:
                        raise LinkLost(self._reason)
                    self._changed.clear()
                    await self._changed.wait()
        except TimeoutError as error:
            raise DeadlinePassed(f"no answer within {deadline_s:g} s") from error
        message, _ = self._early.popleft()
        if isinstance(message, Failure):
            raise _refusal(message)
        if not isinstance(message, kind):
            raise ProtocolError(f"a {kind.__name__} was expected, not a {type(message).__name__}")
        return message

    def certificate(self) -> bytes:
        """The other side's certificate, DER."""
        return self._transport.get_extra_info("ssl_object").getpeercert(binary_form=True)

    # What the transport calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is no subclass

    def get_buffer(self, sizehint: int) -> memoryview:
        return memoryview(self._buffer)[self._filled :]

    def buffer_updated(self, nbytes: int) -> None:
        self.heard_at = time.monotonic()
        self._traffic.received_bytes += nbytes
        if self.closed:
            return  # what still comes is overwritten, unread
        self._filled += nbytes
        if self._filled < len(self._buffer):
            return
        full, self._filled = self._buffer, 0
        try:
            self._take(full)
        except CorollaError as error:
            self._buffer = self._length
            self.refuse(error)

    def eof_received(self) -> bool:
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self.closed = True
        self._reason = self._reason or (str(exc) if exc else "the other side ended the connection")
        self._changed.set()
        if self._handler:
            self._handler.lost(self, self._reason)

    def _hold(self, error: CorollaError) -> None:
        self._refusals.on_dialled(self.peer, error)

    def _take(self, full: bytearray) -> None:
        """A length was read, or the frame that it announced."""
        if full is self._length:
            total = check_total(LENGTH.unpack(full)[0])
            if not self._handler and total > HANDSHAKE_FRAME_LIMIT:
                raise FrameError("the handshake's frames are small")
            self._buffer = bytearray(total)
            return
        self._buffer = self._length
        self._tell(*decode_frame(full))

    def _tell(self, message: AnyMessage, payload: memoryview) -> None:
        if self._handler:
            self._handler.received(self, message, payload)
        elif len(self._early) < 4:
            self._early.append((message, payload))
            self._changed.set()
        else:
            raise ProtocolError("frames came before the handshake was over")


def _code(error: CorollaError) -> str:
    return {VersionMismatch: "version", IsShunned: "shunned"}.get(type(error), "protocol")


def _refusal(failure: Failure) -> ProtocolError:
    kind = VersionMismatch if failure.code == "version" else Refused
    return kind(f"the other side refuses: {failure.reason}")
