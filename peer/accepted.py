"""Data links that others dialled to this peer: which session each one serves, and the frames that come on it."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from peer.scheduler import Scheduler
from peer.sessions import Fail, Session, Sessions
from shared.edges import ATTACH_S, Edge, Inlet, Outlet
from shared.errors import CacheOverrun, CorollaError, HopFailed, ProtocolError, Untimely
from shared.links import Link
from shared.tensors import check_step
from shared.types import SessionId
from shared.wire import Ack, AnyMessage, Attach, Attached, Detach, Failure, Step

logger = logging.getLogger(__name__)

WAITING_LIMIT = 1024
QUEUE_LIMIT = 4096  # steps of one session that wait


class AcceptedEdges:
    """The handler of all data links that were dialled to us."""

    def __init__(
        self, sessions: Sessions, scheduler: Scheduler, fail: Fail, on_room: Callable[[Session], None]
    ) -> None:
        self._sessions = sessions
        self._scheduler = scheduler
        self._fail = fail
        self._on_room = on_room
        self._serves: dict[Link, tuple[Session, Edge]] = {}
        self._waiting: dict[Link, tuple[Attach, float]] = {}  # for the session to be opened, or redirected; since when

    def unbind(self, session: Session) -> None:
        """Let go of a session that has ended, and so of its cache, or that others are about to attach to."""
        for end in (session.inlet, session.outlet):
            if end and self._serves.get(end.link, (None, None))[0] is session:
                del self._serves[end.link]
        session.inlet = session.outlet = None
        session.outlet_stands.clear()

    def serves(self, link: Link) -> bool:
        """True while a session needs this link."""
        return link in self._serves

    def received(self, link: Link, message: AnyMessage, payload: memoryview) -> None:
        match message:
            case Step():
                self._step(link, message, payload)
            case Ack():
                self._acknowledged(link, message)
            case Attach():
                self._attach(link, message)
            case Detach():
                self._detach(link, message)
            case Failure():
                logger.info("%s ends its link: %.200r", link.peer, message.reason)
            case _:
                raise ProtocolError(f"a {type(message).__name__} does not belong on a data link")

    def lost(self, link: Link, reason: str) -> None:
        self._waiting.pop(link, None)
        session, _ = self._serves.pop(link, (None, None))
        if session and not session.closed:
            if session.inlet and session.inlet.link is link:
                session.inlet = None
            self._fail(session, HopFailed(link.peer, "edge_lost", f"the data link from {link.peer} was lost: {reason}"))

    def opened(self, session: Session) -> None:
        """Bind the edges that came before the session's Open, or before its Redirect."""
        for link, (attach, _) in list(self._waiting.items()):
            if attach.session == session.id and attach.epoch <= session.cursor.epoch:
                del self._waiting[link]
                try:
                    self._bind(session, link, attach)
                except ProtocolError as error:
                    link.refuse(error)

    def expire(self, now: float) -> None:
        """Refuse edges whose session was never opened."""
        for link, (_, since) in list(self._waiting.items()):
            if now - since > ATTACH_S:
                del self._waiting[link]
                link.close("the session of this edge was never opened")

    def _attach(self, link: Link, attach: Attach) -> None:
        if link in self._serves:
            raise ProtocolError("this link serves another session")
        session = self._sessions.get(SessionId(attach.session))
        if session and attach.epoch <= session.cursor.epoch:
            self._bind(session, link, attach)
        elif link in self._waiting:
            raise ProtocolError("this link waits for a session already")
        elif self._sessions.has_ended(attach.session, attach.epoch) or len(self._waiting) >= WAITING_LIMIT:
            link.send(Failure(code="closed", reason="this session has ended here", session=attach.session))
        else:
            self._waiting[link] = (attach, time.monotonic())

    def _bind(self, session: Session, link: Link, attach: Attach) -> None:
        if attach.epoch < session.cursor.epoch:  # the gateway has redirected this hop since, and soon the dialler too
            link.send(Failure(code="stale", reason="the session has a later epoch here", session=session.id))
            return
        source = session.upstream if attach.edge == "steps" else session.gateway
        taken = session.inlet if attach.edge == "steps" else session.outlet
        if link.peer != source:  # a gateway may have told each of us another story
            reason = f"{link.peer} may not attach {attach.edge} to this session"
            link.send(Failure(code="refused", reason=reason, session=session.id))
            return
        if taken:
            raise Untimely(f"another link carries the {attach.edge} of this session")
        if attach.edge == "outputs" and session.downstream != session.gateway:
            raise ProtocolError("this hop sends nothing to the gateway")
        self._serves[link] = (session, attach.edge)
        link.send(Attached(session=session.id, epoch=attach.epoch))
        if attach.edge == "steps":
            session.inlet = Inlet(link, session.id)
        else:
            session.outlet = Outlet(link, lambda: self._on_room(session))
            session.outlet_stands.set()
            self._on_room(session)

    def _step(self, link: Link, step: Step, payload: memoryview) -> None:
        session, edge = self._serves.get(link, (None, None))
        if session is None or session.id != step.session or session.closed:
            if not self._is_late(step):
                raise Untimely("a step for a session that this link does not serve")
            return
        if edge != "steps" or session.inlet is None:
            raise ProtocolError("steps do not come on this edge")
        session.inlet.arrived(len(payload))
        check_step(step, payload)
        try:
            self._check_width(step)
            self._admit(session, session.inlet, step, payload)
        except CorollaError as error:
            self._fail(session, error)

    def _is_late(self, step: Step) -> bool:
        """True for a step of a session that has ended, or of an epoch that has: the sender has not heard of it yet."""
        session = self._sessions.get(SessionId(step.session))
        return session.cursor.is_over(step.epoch) if session else self._sessions.has_ended(step.session, step.epoch)

    def _check_width(self, step: Step) -> None:
        """Raises ProtocolError for hidden states of another model: a gateway may have put the wrong hops together."""
        width = self._scheduler.blocks.hidden_size
        if step.tensors[0].shape[1] != width:
            raise ProtocolError(f"hidden states of {step.tensors[0].shape[1]} numbers come where {width} are expected")

    def _admit(self, session: Session, inlet: Inlet, step: Step, payload: memoryview) -> None:
        """Queue the step, unless it is late or nothing is taken now. Raises PositionGap, CacheOverrun."""
        if session.fenced:
            inlet.taken(len(payload))
            return
        if step.position + step.count > session.reserve:
            raise CacheOverrun(f"position {step.position + step.count} is beyond the {session.reserve} tokens reserved")
        if len(session.queue) >= QUEUE_LIMIT:
            raise ProtocolError(f"{QUEUE_LIMIT} steps of this session wait already")
        if session.cursor.admit(step.epoch, step.round, step.position, step.count):
            session.named_at = time.monotonic()
            self._scheduler.enqueue(session, step, payload)
        else:
            inlet.taken(len(payload))

    def _detach(self, link: Link, detach: Detach) -> None:
        self._waiting.pop(link, None)
        session, _ = self._serves.get(link, (None, None))
        if session and session.id == detach.session:
            del self._serves[link]

    def _acknowledged(self, link: Link, ack: Ack) -> None:
        session, edge = self._serves.get(link, (None, None))
        if edge == "outputs" and session and session.outlet and session.id == ack.session and not session.closed:
            session.outlet.acknowledged(ack)
