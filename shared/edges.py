"""A session's edge over a data link: its window on both sides, and the dialler's end of it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Literal

from shared.errors import CorollaError, DeadlinePassed, HopFailed, LinkLost, ProtocolError
from shared.links import Link
from shared.types import PeerId, SessionId
from shared.wire import WINDOW_BYTES, Ack, AnyMessage, Attach, Attached, Detach, Failure, Message, Output, Step

ATTACH_S = 8.0
ACK_BYTES = WINDOW_BYTES // 64  # acknowledged together: a decode step's few bytes are not worth a frame each

Edge = Literal["steps", "outputs"]
"""What a data link carries for a session: steps to the dialled node, or outputs to the dialler."""


class Outlet:
    """The sending side: counts what the receiver has not acknowledged, and says whether more may go."""

    def __init__(self, link: Link, on_room: Callable[[], None]) -> None:
        self.link = link
        self._on_room = on_room
        self._sent = 0
        self._received = 0

    @property
    def room(self) -> int:
        """Payload bytes that fit into the window now."""
        return WINDOW_BYTES - (self._sent - self._received)

    def has_room(self, size: int) -> bool:
        """True when `size` more payload bytes fit into the window."""
        return size <= self.room

    def send(self, message: Message, payload: bytes | memoryview = b"") -> None:
        """Send a frame for which there is room. Raises LinkLost."""
        assert self.has_room(len(payload))
        self.link.send(message, payload)
        self._sent += len(payload)

    def acknowledged(self, ack: Ack) -> None:
        """Raises ProtocolError for more than was sent, or less than before."""
        if not self._received <= ack.received <= self._sent:
            raise ProtocolError(f"{ack.received} bytes acknowledged of {self._sent} sent")
        if ack.received > self._received:
            self._received = ack.received
            self._on_room()


class Inlet:
    """The receiving side: acknowledges what was taken, and refuses a sender that ignores the window."""

    def __init__(self, link: Link, session: SessionId) -> None:
        self.link = link
        self._session = session
        self._arrived = 0
        self._taken = 0
        self._told = 0

    def arrived(self, size: int) -> None:
        """Raises ProtocolError when the sender went beyond the window."""
        self._arrived += size
        if self._arrived - self._taken > WINDOW_BYTES:
            raise ProtocolError(f"more than {WINDOW_BYTES} bytes are unacknowledged")

    def taken(self, size: int) -> None:
        """A frame left the queue: tell the sender, if it still listens, whenever that makes a difference to it."""
        self._taken += size
        if self._taken - self._told >= ACK_BYTES:
            self._told = self._taken
            self.link.tell(Ack(session=self._session, received=self._taken))


class DialledEdge:
    """The dialler's end of a session's edge; a handler of its data link until `detach`.

    `on_output` and `on_lost` are called on the event loop; `on_lost` at most once, and not after `detach`.
    """

    def __init__(
        self,
        link: Link,
        session: SessionId,
        epoch: int,
        *,
        on_room: Callable[[], None] = lambda: None,
        on_output: Callable[[Output, memoryview], None] | None = None,
        on_step: Callable[[Step, memoryview], None] | None = None,
        on_lost: Callable[[HopFailed], None],
    ) -> None:
        self.link = link
        self.outlet = Outlet(link, on_room)
        self.inlet = Inlet(link, session)
        self._session = session
        self._epoch = epoch
        self._broken = False
        self._on_output = on_output
        self._on_step = on_step
        self._on_lost: Callable[[HopFailed], None] | None = on_lost
        self._attached: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def attach(self, edge: Edge, deadline_s: float = ATTACH_S) -> None:
        """Bind the link to the session at the other side. Raises LinkLost, HopFailed, DeadlinePassed."""
        self.link.start(self)
        self.link.send(Attach(session=self._session, epoch=self._epoch, edge=edge))
        try:
            async with asyncio.timeout(deadline_s):
                await self._attached
        except TimeoutError as error:
            raise DeadlinePassed(f"{self.link.peer} did not take the edge within {deadline_s:g} s") from error

    def detach(self) -> bool:
        """End the edge in good order; True when its link can serve another session."""
        self._on_lost = None
        stood = self._attached.done() and not self._attached.cancelled() and self._attached.exception() is None
        self._attached.cancel()
        if stood and not self._broken and not self.link.closed:
            self.link.tell(Detach(session=self._session))
            return True
        self.link.close("the edge is of no use any more")
        return False

    def received(self, link: Link, message: AnyMessage, payload: memoryview) -> None:
        match message:
            case Output() if self._on_output and message.session == self._session and self._attached.done():
                self.inlet.arrived(len(payload))
                self._on_output(message, payload)
            case Step() if self._on_step and message.session == self._session and self._attached.done():
                self.inlet.arrived(len(payload))
                self._on_step(message, payload)
            case Ack() if message.session == self._session and self._attached.done():
                self.outlet.acknowledged(message)
            case Attached() if message.session == self._session:
                if not self._attached.done():
                    self._attached.set_result(None)
            case Failure() if message.session in (None, self._session):
                self._fail(HopFailed(link.peer, message.code, message.reason))  # whomever it names: it is its own word
            case Ack() | Output() | Step() | Attached() | Failure():
                pass  # late words about the session that this link served before, or about this one's earlier epoch
            case _:
                raise ProtocolError(f"a {type(message).__name__} does not belong on this edge")

    def lost(self, link: Link, reason: str) -> None:
        self._fail(HopFailed(link.peer, "edge_lost", f"the data link to {link.peer} was lost: {reason}"))

    def _fail(self, error: HopFailed) -> None:
        self._broken = True
        if not self._attached.done():
            self._attached.set_exception(error)
            self._attached.exception()  # whoever attaches may have gone
        elif self._on_lost:
            self._on_lost(error)
            self._on_lost = None


def as_hop_failure(error: CorollaError, peer: PeerId) -> HopFailed:
    """What went wrong on the way to `peer`, with the peer's name."""
    if isinstance(error, HopFailed):
        return error
    code = {LinkLost: "unreachable", DeadlinePassed: "edge_silent"}.get(type(error), "refused")
    return HopFailed(peer, code, f"{peer}: {error}")
