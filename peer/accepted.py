"""Data links that others dialled to this peer: which session each one serves, and the frames that come on it."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from peer.scheduler import Scheduler
from peer.sessions import Fail, Session, Sessions
from shared.edges import ATTACH_S, Edge, Inlet, Outlet
from shared.errors import CacheOverrun, CorollaError, FrameError, HopFailed, ProtocolError, Untimely
from shared.links import Link
from shared.tensors import WIDEST_BYTES, check_tensor
from shared.types import SessionId
from shared.wire import PAYLOAD_LIMIT, Ack, AnyMessage, Attach, Attached, Detach, Failure, Step

logger = logging.getLogger(__name__)

WAITING_LIMIT = 1024
MESSAGE_BYTES = 4096  # of a step, without its tensor: they stay in memory with it, and the window does not count them
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
        self._waiting: dict[tuple[str, Edge], tuple[Link, Attach, float]] = {}

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
                logger.warning("%s ends its link: %s", link.peer, message.reason)
            case _:
                raise ProtocolError(f"a {type(message).__name__} does not belong on a data link")

    def lost(self, link: Link, reason: str) -> None:
        self._waiting = {key: waiting for key, waiting in self._waiting.items() if waiting[0] is not link}
        session, _ = self._serves.pop(link, (None, None))
        if session and not session.closed:
            if session.inlet and session.inlet.link is link:
                session.inlet = None
            self._fail(session, HopFailed(link.peer, "edge_lost", f"the data link from {link.peer} was lost: {reason}"))

    def opened(self, session: Session) -> None:
        """Bind the edges that came before the session's Open, or before its Redirect."""
        for edge in ("steps", "outputs"):
            link, attach, _ = self._waiting.get((session.id, edge), (None, None, 0.0))
            if not link or not attach or attach.epoch > session.cursor.epoch:
                continue
            del self._waiting[session.id, edge]
            if not link.closed:
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
        key = (attach.session, attach.edge)
        session = self._sessions.get(SessionId(attach.session))
        _, waiting, _ = self._waiting.get(key, (None, None, 0.0))
        if session and attach.epoch <= session.cursor.epoch:
            self._bind(session, link, attach)
        elif any(each is link for each, _, _ in self._waiting.values()) or (waiting and waiting.epoch >= attach.epoch):
            raise ProtocolError("this link, or another one for this edge, waits already")
        elif self._sessions.has_ended(attach.session, attach.epoch) or len(self._waiting) >= WAITING_LIMIT:
            link.send(Failure(code="closed", reason="this session has ended here", session=attach.session))
        else:
            self._waiting[key] = (link, attach, time.monotonic())

    def _bind(self, session: Session, link: Link, attach: Attach) -> None:
        if attach.epoch < session.cursor.epoch:  # the gateway has redirected this hop since, and soon the dialler too
            link.send(Failure(code="stale", reason="the session has a later epoch here", session=session.id))
            return
        source = session.upstream if attach.edge == "steps" else session.gateway
        taken = session.inlet if attach.edge == "steps" else session.outlet
        if link.peer != source:
            raise ProtocolError(f"{link.peer} may not attach {attach.edge} to this session")
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
        self._check_size(step, payload)
        try:
            self._admit(session, session.inlet, step, payload)
        except CorollaError as error:
            self._fail(session, error)

    def _is_late(self, step: Step) -> bool:
        """True for a step of a session that has ended, or of an epoch that has: the sender has not heard of it yet."""
        session = self._sessions.get(SessionId(step.session))
        return session.cursor.is_over(step.epoch) if session else self._sessions.has_ended(step.session, step.epoch)

    def _check_size(self, step: Step, payload: memoryview) -> None:
        """Raises FrameError for bytes that are not the step's, or whose result would not fit into a frame."""
        width = self._scheduler.blocks.hidden_size
        if memoryview(payload.obj).nbytes - len(payload) > MESSAGE_BYTES:
            raise FrameError(f"a step's message has more than {MESSAGE_BYTES} bytes")
        check_tensor(step.tensors, len(payload), (step.count, width))
        if step.count * width * WIDEST_BYTES > PAYLOAD_LIMIT:
            raise FrameError(f"a step of {step.count} tokens is too long for one frame")

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
        session, _ = self._serves.get(link, (None, None))
        if session and session.id == detach.session:
            del self._serves[link]

    def _acknowledged(self, link: Link, ack: Ack) -> None:
        session, edge = self._serves.get(link, (None, None))
        if edge == "outputs" and session and session.outlet and session.id == ack.session and not session.closed:
            session.outlet.acknowledged(ack)
