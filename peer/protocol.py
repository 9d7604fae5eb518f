"""What a peer answers on control links: gateways open, name and close sessions here.

Everything that arrives comes from another node: it is checked before anything is done with it.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable

from peer.accepted import AcceptedEdges
from peer.gathering import Gathering
from peer.model.blocks import Blocks
from peer.model.cache import CacheBudget
from peer.opening import Opener
from peer.pace import Pace
from peer.scheduler import Forward, Scheduler
from peer.sessions import GATEWAY_SILENT_S, Session, Sessions
from shared.errors import (
    CacheOverrun,
    CorollaError,
    CropTooDeep,
    DeadlinePassed,
    HopFailed,
    OutOfCache,
    PositionGap,
    ProtocolError,
)
from shared.links import Handler, Link
from shared.pool import IDLE_S, LinkPool
from shared.types import Fingerprint, PeerId, SessionId
from shared.wire import AnyMessage, Close, Extend, Extended, Failure, Open, Opened, Ping, Pong

logger = logging.getLogger(__name__)

TELL_S = 0.1
"""Gateways hear within this time of cache that others took or gave back."""

_CODES: dict[type[CorollaError], str] = {
    OutOfCache: "out_of_cache",
    CacheOverrun: "cache_overrun",
    PositionGap: "gap",
    CropTooDeep: "crop_too_deep",
    DeadlinePassed: "deadline",
}


class PeerProtocol:
    """A peer's side of the session protocol: the handler of control links, and the owner of all sessions."""

    def __init__(
        self,
        me: PeerId,
        fingerprint: Fingerprint,
        blocks: Blocks,
        budget: CacheBudget,
        pool: LinkPool,
        pace: Pace,
        gathering: Gathering,
        on_forward: Callable[[Forward], None] = lambda forward: None,
    ) -> None:
        self._me = me
        self._pool = pool
        self._tokens_per_s = 1 / pace.decode_s
        self.sessions = Sessions(budget, self._tell_budget)
        self.scheduler = Scheduler(me, blocks, self.sessions, self.fail, pace, gathering, on_forward)
        self._opener = Opener(me, fingerprint, blocks, self.sessions, self.scheduler, pool, self.fail)
        self.accepted = AcceptedEdges(self.sessions, self.scheduler, self.fail)
        self._gateways: dict[PeerId, Link] = {}
        self._opening: dict[SessionId, asyncio.Task[None]] = {}
        self._telling: asyncio.TimerHandle | None = None

    def on_link(self, link: Link) -> Handler:
        """The handler of a link that somebody dialled to us."""
        return self.accepted if link.role == "data" else self

    def received(self, link: Link, message: AnyMessage, payload: memoryview) -> None:
        self._gateways[link.peer] = link  # of several, the one that is used: a dialler may drop those that came late
        match message:
            case Open():
                self._open(link, message)
            case Extend():
                if session := self._session_of(link, message.session):
                    self._extend(link, session, message.reserve)
            case Close():
                if session := self._session_of(link, message.session):
                    self.close(session)
            case Ping():
                for named in message.sessions:
                    if session := self._session_of(link, named):
                        session.named_at = time.monotonic()
                link.send(self._pong(message.number))
            case Failure():
                logger.warning("%s says: %s", link.peer, message.reason)
            case _:
                raise ProtocolError(f"a {type(message).__name__} does not belong on a control link")

    def lost(self, link: Link, reason: str) -> None:
        if self._gateways.get(link.peer) is link:
            logger.info("gateway %s is gone: %s", link.peer, reason)

    def fail(self, session: Session, error: CorollaError) -> None:
        """Tell the gateway what went wrong and where, and end the session."""
        if session.closed:
            return
        logger.warning("session %s failed: %s", session.id[:8], error)
        if link := self._gateways.get(session.gateway):
            link.tell(self._failure(session.id, error, session))
        self.close(session)

    def close(self, session: Session) -> None:
        """End a session in good order and free its cache, after a forward of it that may be running."""
        if session.closed:
            return
        self.sessions.close(session)
        self.scheduler.closed(session)
        self.accepted.closed(session)
        if task := self._opening.pop(session.id, None):
            task.cancel()
        if session.edge and session.edge.detach():
            self._pool.release(session.edge.link)

    def reap(self) -> None:
        """Close what nobody needs any more; called each second."""
        now = time.monotonic()
        for session in self.sessions:
            link = self._gateways.get(session.gateway)
            if reason := session.abandoned(now, link.heard_at if link else 0.0):
                logger.info("session %s is freed: %s", session.id[:8], reason)
                self.close(session)
        self.accepted.expire(now)
        for peer, link in list(self._gateways.items()):
            if link.closed and not any(session.gateway == peer for session in self.sessions):
                del self._gateways[peer]

    def idle(self, link: Link, now: float) -> bool:
        """True for a link from which nothing is to be expected any more: a gateway's, or a pooled one gone stale."""
        if link.role == "control":
            return now - link.heard_at > GATEWAY_SILENT_S
        return not self.accepted.serves(link) and now - link.heard_at > 2 * IDLE_S

    async def stop(self) -> None:
        """End all sessions, telling their gateways."""
        opening = list(self._opening.values())
        for session in self.sessions:
            self.fail(session, HopFailed(self._me, "leaving", f"{self._me} is leaving the swarm"))
        await asyncio.gather(*opening, return_exceptions=True)
        self.scheduler.stop()
        if self._telling:
            self._telling.cancel()

    def _session_of(self, link: Link, session: str) -> Session | None:
        """The session, if this link's gateway opened it."""
        found = self.sessions.get(SessionId(session))
        return found if found and found.gateway == link.peer else None

    def _open(self, link: Link, message: Open) -> None:
        try:
            session = self._opener.reserve(link.peer, message)
        except CorollaError as error:
            link.send(self._failure(message.session, error))
            return
        task = asyncio.create_task(self._connect(link, session))
        self._opening[session.id] = task
        task.add_done_callback(lambda _: self._opening.pop(session.id, None))
        self.accepted.opened(session)

    async def _connect(self, link: Link, session: Session) -> None:
        """Answer Opened once the downstream edge stands."""
        try:
            await self._opener.connect(session)
            link.send(Opened(session=session.id))
        except CorollaError as error:
            self.fail(session, error)

    def _extend(self, link: Link, session: Session, reserve: int) -> None:
        """Answer with what the session holds then: a refusal leaves it as it was, and the gateway to its choices."""
        try:
            self.sessions.extend(session, reserve)
        except OutOfCache as error:
            logger.info("session %s stays at %d tokens: %s", session.id[:8], session.reserve, error)
        link.send(Extended(session=session.id, reserve=session.reserve))

    def _failure(self, session: str, error: CorollaError, held: Session | None = None) -> Failure:
        """What broke the session's rules came from upstream; the rest is this peer's own."""
        if isinstance(error, HopFailed):
            return Failure(code=error.code, reason=error.reason[:1000], session=session, peer=error.peer)
        code = _CODES.get(type(error), "protocol")
        blamed = held.upstream if held and isinstance(error, ProtocolError | CacheOverrun) else self._me
        return Failure(code=code, reason=str(error)[:1000], session=session, peer=blamed)

    def _pong(self, number: int) -> Pong:
        budget = self.sessions.budget
        return Pong(
            number=number,
            cache_tokens=budget.tokens,
            free_cache_tokens=budget.free_tokens,
            room_tokens=self.sessions.room_tokens,
            longest_tokens=budget.longest_tokens,
            sessions=len(self.sessions),
            tokens_per_s=self._tokens_per_s,
        )

    def _tell_budget(self, gateway: PeerId) -> None:
        """Tell the gateway that changed it at once, and all others soon, once for all changes until then."""
        if link := self._gateways.get(gateway):
            link.tell(self._pong(0))
        if not self._telling:
            self._telling = asyncio.get_running_loop().call_later(TELL_S, self._tell_all)

    def _tell_all(self) -> None:
        self._telling = None
        pong = self._pong(0)
        for link in self._gateways.values():
            link.tell(pong)
