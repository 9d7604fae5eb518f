"""Data links that others dialled to this peer: which session each one serves, and the frames that come on it."""

from __future__ import annotations

import logging
import time

from peer.scheduler import Scheduler
from peer.sessions import Fail, Session, Sessions
from shared.edges import ATTACH_S, Edge, Inlet, Outlet
from shared.errors import CacheOverrun, CorollaError, FrameError, HopFailed, ProtocolError
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

    def __init__(self, sessions: Sessions, scheduler: Scheduler, fail: Fail) -> None:
        self._sessions = sessions
        self._scheduler = scheduler
        self._fail = fail
        self._serves: dict[Link, tuple[Session, Edge]] = {}
        self._waiting: dict[tuple[str, Edge], tuple[Link, Attach, float]] = {}

    def closed(self, session: Session) -> None:
        """Let go of a session that has ended, and so of its cache."""
        for end in (session.inlet, session.outlet):
            if end and self._serves.get(end.link, (None, None))[0] is session:
                del self._serves[end.link]

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
        key = (attach.session, attach.edge)
        session = self._sessions.get(SessionId(attach.session))
        if session:
            self._bind(session, link, attach)
        elif any(waiting is link for waiting, _, _ in self._waiting.values()) or key in self._waiting:
            raise ProtocolError("this link, or another one for this edge, waits already")
        elif self._sessions.recently_closed(attach.session) or len(self._waiting) >= WAITING_LIMIT:
            link.send(Failure(code="closed", reason="this session has ended here", session=attach.session))
        else:
            self._waiting[key] = (link, attach, time.monotonic())

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
            session.outlet = Outlet(link, self._scheduler.wake)
            session.outlet_stands.set()
            self._scheduler.wake()
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
        self._check_size(step, payload)
        try:
            self._admit(session, session.inlet, step, payload)
        except CorollaError as error:
            self._fail(session, error)

    def _check_size(self, step: Step, payload: memoryview) -> None:
        """Raises FrameError for bytes that are not the step's, or whose result would not fit into a frame."""
        width = self._scheduler.blocks.hidden_size
        if memoryview(payload.obj).nbytes - len(payload) > MESSAGE_BYTES:
            raise FrameError(f"a step's message has more than {MESSAGE_BYTES} bytes")
        check_tensor(step.tensors, len(payload), (step.count, width))
        if step.count * width * WIDEST_BYTES > PAYLOAD_LIMIT:
            raise FrameError(f"a step of {step.count} tokens is too long for one frame")

    def _admit(self, session: Session, inlet: Inlet, step: Step, payload: memoryview) -> None:
        """Queue the step, unless it is late. Raises PositionGap, CacheOverrun."""
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
