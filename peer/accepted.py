"""Data links that others dialled to this peer: which session each one serves, and the frames that come on it."""

from __future__ import annotations

import logging
import time
from typing import Literal

from peer.scheduler import Scheduler
from peer.sessions import Fail, Session, Sessions
from shared.edges import ATTACH_S, Inlet, Outlet
from shared.errors import CacheOverrun, CorollaError, HopFailed, ProtocolError
from shared.links import Link
from shared.types import SessionId
from shared.wire import Ack, AnyMessage, Attach, Attached, Detach, Failure, Step

logger = logging.getLogger(__name__)

WAITING_LIMIT = 1024

Edge = Literal["steps", "outputs"]


class AcceptedEdges:
    """The handler of all data links that were dialled to us."""

    def __init__(self, sessions: Sessions, scheduler: Scheduler, fail: Fail) -> None:
        self._sessions = sessions
        self._scheduler = scheduler
        self._fail = fail
        self._serves: dict[Link, tuple[Session, Edge]] = {}
        self._waiting: dict[tuple[str, Edge], tuple[Link, Attach, float]] = {}

    def received(self, link: Link, message: AnyMessage, payload: memoryview) -> None:
        match message:
            case Step():
                self._step(link, message, payload)
            case Ack():
                self._acknowledged(link, message)
            case Attach():
                self._attach(link, message)
            case Detach():
                self._serves.pop(link, None)
            case Failure():
                logger.warning("%s ends its link: %s", link.peer, message.reason)
            case _:
                raise ProtocolError(f"a {type(message).__name__} does not belong on a data link")

    def lost(self, link: Link, reason: str) -> None:
        session, _ = self._serves.pop(link, (None, None))
        if session and not session.closed:
            self._fail(session, HopFailed(link.peer, "edge_lost", f"the data link from {link.peer} was lost: {reason}"))

    def opened(self, session: Session) -> None:
        """Bind the edges that came before the session's Open."""
        for edge in ("steps", "outputs"):
            link, attach, _ = self._waiting.pop((session.id, edge), (None, None, 0.0))
            if link and attach and not link.closed:
                try:
                    self._bind(session, link, attach)
                except ProtocolError as error:
                    link.refuse(error)

    def expire(self, now: float) -> None:
        """Refuse edges whose session was never opened."""
        for key, (link, _, since) in list(self._waiting.items()):
            if now - since > ATTACH_S:
                del self._waiting[key]
                link.close("the session of this edge was never opened")

    def _attach(self, link: Link, attach: Attach) -> None:
        if link in self._serves:
            raise ProtocolError("this link serves another session")
        session = self._sessions.get(SessionId(attach.session))
        if session:
            self._bind(session, link, attach)
        elif self._sessions.recently_closed(attach.session) or len(self._waiting) >= WAITING_LIMIT:
            link.send(Failure(code="closed", reason="this session has ended here", session=attach.session))
        else:
            self._waiting[attach.session, attach.edge] = (link, attach, time.monotonic())

    def _bind(self, session: Session, link: Link, attach: Attach) -> None:
        source = session.upstream if attach.edge == "steps" else session.gateway
        taken = session.inlet if attach.edge == "steps" else session.outlet
        if link.peer != source or attach.epoch != session.cursor.epoch or taken:
            raise ProtocolError(f"{link.peer} may not attach {attach.edge} to this session")
        if attach.edge == "outputs" and not session.last:
            raise ProtocolError("this hop is not the chain's last")
        if attach.edge == "steps":
            session.inlet = Inlet(link, session.id)
        else:
            session.outlet = Outlet(link, session.id, self._scheduler.wake)
            session.outlet_stands.set()
        self._serves[link] = (session, attach.edge)
        link.send(Attached(session=session.id, epoch=attach.epoch))

    def _step(self, link: Link, step: Step, payload: memoryview) -> None:
        session, edge = self._serves.get(link, (None, None))
        if session is None or session.id != step.session or session.closed:
            if not self._sessions.recently_closed(step.session):
                raise ProtocolError("a step for a session that this link does not serve")
            return
        if edge != "steps" or session.inlet is None:
            raise ProtocolError("steps do not come on this edge")
        session.inlet.arrived(len(payload))
        try:
            self._admit(session, session.inlet, step, payload)
        except CorollaError as error:
            self._fail(session, error)

    def _admit(self, session: Session, inlet: Inlet, step: Step, payload: memoryview) -> None:
        """Queue the step, unless it is late. Raises PositionGap, CacheOverrun."""
        if step.position + step.count > session.reserve:
            raise CacheOverrun(f"position {step.position + step.count} is beyond the {session.reserve} tokens reserved")
        if session.cursor.admit(step.epoch, step.round, step.position, step.count):
            session.named_at = time.monotonic()
            self._scheduler.enqueue(session, step, payload)
        else:
            inlet.taken(len(payload))

    def _acknowledged(self, link: Link, ack: Ack) -> None:
        session, _ = self._serves.get(link, (None, None))
        if session and session.outlet and session.id == ack.session and not session.closed:
            session.outlet.acknowledged(ack)
