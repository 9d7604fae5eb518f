"""What a peer answers on control links: gateways open, name and close sessions here.

Everything that arrives comes from another node: it is checked before anything is done with it.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable

import msgspec

from peer.accepted import AcceptedEdges
from peer.gathering import Gathering
from peer.model.blocks import Blocks
from peer.model.cache import CacheBudget
from peer.opening import Opener
from peer.outbox import OutboxBudget
from peer.pace import Pace
from peer.replay import Replay
from peer.report import report
from peer.scheduler import Forward, Scheduler
from peer.sessions import GATEWAY_SILENT_S, Session, Sessions
from shared.changes import Changes
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
from shared.wire import (
    AnyMessage,
    Close,
    Extend,
    Extended,
    Failure,
    Open,
    Opened,
    Ping,
    Pong,
    Redirect,
    Redirected,
    Status,
    Warm,
)

logger = logging.getLogger(__name__)

OUTBOX_BYTES = 2**30
WARMING_LIMIT = 16  # links to spare peers that are being made at one time

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
        outbox_bytes: int = OUTBOX_BYTES,
    ) -> None:
        self._me = me
        self._pool = pool
        self._tokens_per_s = 1 / pace.decode_s
        self._draining = False
        self._freed = Changes()
        self.sessions = Sessions(budget, OutboxBudget(outbox_bytes), self._tell_budget)
        self.scheduler = Scheduler(me, blocks, self.sessions, self.fail, pace, gathering, on_forward)
        on_room = Replay(me, self.scheduler, self.fail).go_on
        self._opener = Opener(me, fingerprint, blocks, self.sessions, pool, self.fail, on_room)
        self.accepted = AcceptedEdges(self.sessions, self.scheduler, self.fail, on_room)
        self._gateways: dict[PeerId, Link] = {}
        self._connecting: dict[SessionId, asyncio.Task[None]] = {}
        self._warming: set[asyncio.Task[None]] = set()
        self._telling: asyncio.TimerHandle | None = None

    def on_link(self, link: Link) -> Handler:
        """The handler of a link that somebody dialled to us."""
        return self.accepted if link.role == "data" else self

    def received(self, link: Link, message: AnyMessage, payload: memoryview) -> None:
        self._gateways[link.peer] = link  # of several, the one that is used: a dialler may drop those that came late
        match message:
            case Open():
                self._open(link, message)
            case Extend() | Status() | Redirect() | Close():
                self._order(link, message)
            case Warm():
                self._warm(message)
            case Ping():
                for named in message.sessions:
                    if session := self._session_of(link, named):
                        session.named_at = time.monotonic()
                link.send(self._pong(message.number))
            case Failure():
                logger.info("%s says: %.200r", link.peer, message.reason)
            case _:
                raise ProtocolError(f"a {type(message).__name__} does not belong on a control link")

    def lost(self, link: Link, reason: str) -> None:
        if self._gateways.get(link.peer) is link:
            logger.info("gateway %s is gone: %s", link.peer, reason)

    def fail(self, session: Session, error: CorollaError) -> None:
        """Tell the gateway what went wrong and where. The session is kept: the gateway redirects or closes it."""
        if session.closed or session.fenced:
            return
        logger.warning("session %s failed: %s", session.id[:8], error)
        session.fence()
        self.scheduler.fenced(session)
        if link := self._gateways.get(session.gateway):
            link.tell(self._failure(session.id, error, session))

    def close(self, session: Session) -> None:
        """End a session in good order and free its cache, after a forward of it that may be running."""
        if session.closed:
            return
        self.sessions.close(session)
        self.scheduler.closed(session)
        self._disconnect(session)

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

    def drain(self) -> None:
        """From now on take no new sessions; gateways are told, and move those that are here while they run on."""
        self._draining = True
        self._tell_all()

    async def emptied(self) -> None:
        """Return when no session is left."""
        while len(self.sessions):
            await self._freed.wait()

    async def stop(self) -> None:
        """End all sessions, telling their gateways."""
        tasks = [*self._connecting.values(), *self._warming]
        for task in self._warming:
            task.cancel()
        for session in self.sessions:
            self.fail(session, HopFailed(self._me, "leaving", f"{self._me} is leaving the swarm"))
            self.close(session)
        await asyncio.gather(*tasks, return_exceptions=True)
        self.scheduler.stop()
        if self._telling:
            self._telling.cancel()

    def _session_of(self, link: Link, session: str) -> Session | None:
        """The session, if this link's gateway opened it."""
        found = self.sessions.get(SessionId(session))
        return found if found and found.gateway == link.peer else None

    def _open(self, link: Link, message: Open) -> None:
        try:
            if self._draining:
                raise HopFailed(self._me, "leaving", f"{self._me} is leaving the swarm and takes no new sessions")
            self._supersede(link, message)
            parent = self._parent(link, message)
            session = self._opener.reserve(link.peer, message)
        except CorollaError as error:
            link.send(self._failure(message.session, error))
            return
        if parent:
            self.scheduler.fork(session, parent)
        self._connect(link, session, Opened(session=session.id, cached=session.done))

    def _parent(self, link: Link, message: Open) -> Session | None:
        """Of which session a new one is to be a copy. Raises HopFailed where that cannot be."""
        if message.parent is None:
            return None
        parent = self._session_of(link, message.parent[0])
        self._opener.check_parent(parent, message)
        return parent

    def _supersede(self, link: Link, message: Open) -> None:
        """A gateway that had lost sight of this peer opens the session anew: what is left of the old one ends."""
        old = self._session_of(link, message.session)
        if old and old.cursor.epoch < message.epoch:
            self.close(old)

    def _order(self, link: Link, message: Extend | Status | Redirect | Close) -> None:
        """What a gateway wants of a session; who asks about one that is not here, or not theirs, is told so."""
        session = self._session_of(link, message.session)
        match message:
            case Extend() if session:
                self._extend(link, session, message.reserve)
            case Close() if session:
                self.close(session)
            case Redirect() if session:
                self._redirect(link, session, message)
            case Status() if session:
                link.send(report(session, message.number, self.scheduler))
            case Status() | Redirect():
                gone = HopFailed(self._me, "closed", f"{self._me} does not hold this session")
                link.send(self._failure(message.session, gone))

    def _redirect(self, link: Link, session: Session, message: Redirect) -> None:
        try:
            self._opener.redirect(session, message)
        except CorollaError as error:
            refusal = self._failure(session.id, error, session)
            link.send(msgspec.structs.replace(refusal, peer=self._me, epoch=message.epoch))
            return
        self.scheduler.fenced(session)
        self._disconnect(session)
        self._connect(link, session, Redirected(session=session.id, epoch=message.epoch))

    def _disconnect(self, session: Session) -> None:
        """Let go of both edges."""
        if task := self._connecting.pop(session.id, None):
            task.cancel()
        self.accepted.unbind(session)
        edge, session.edge = session.edge, None
        if edge and edge.detach():
            self._pool.release(edge.link)

    def _connect(self, link: Link, session: Session, answer: Opened | Redirected) -> None:
        """Begin to connect the downstream edge, and answer once it stands; the upstream edge may have come already."""
        task = asyncio.create_task(self._answer(link, session, answer))
        self._connecting[session.id] = task
        task.add_done_callback(lambda _: self._connected(session, task))
        self.accepted.opened(session)

    def _connected(self, session: Session, task: asyncio.Task[None]) -> None:
        if self._connecting.get(session.id) is task:  # a Redirect may have begun another
            del self._connecting[session.id]

    async def _answer(self, link: Link, session: Session, answer: Opened | Redirected) -> None:
        try:
            await self._opener.connect(session)
            await self.scheduler.forked(session)
            if not (session.fenced and isinstance(answer, Opened)):  # what was to be copied may not be there
                link.tell(answer)
        except CorollaError as error:
            self.fail(session, error)

    def _warm(self, message: Warm) -> None:
        for peer in message.peers:
            if len(self._warming) < WARMING_LIMIT and peer != self._me:
                task = asyncio.create_task(self._pool.warm(PeerId(peer)))
                self._warming.add(task)
                task.add_done_callback(self._warming.discard)

    def _extend(self, link: Link, session: Session, reserve: int) -> None:
        """Answer with what the session holds then: a refusal leaves it as it was, and the gateway to its choices."""
        try:
            self.sessions.extend(session, reserve)
        except OutOfCache as error:
            logger.info("session %s stays at %d tokens: %s", session.id[:8], session.reserve, error)
        link.send(Extended(session=session.id, reserve=session.reserve))

    def _failure(self, session: str, error: CorollaError, held: Session | None = None) -> Failure:
        """What broke the session's rules came from upstream, the rest is this peer's own; what is `held` is kept."""
        if isinstance(error, HopFailed):
            code, blamed = error.code, error.peer
        else:
            code = _CODES.get(type(error), "protocol")
            blamed = held.upstream if held and isinstance(error, ProtocolError | CacheOverrun) else self._me
        epoch = held.cursor.epoch if held else None
        reason = str(error)[:1000]
        return Failure(code=code, reason=reason, session=session, peer=blamed, epoch=epoch, kept=held is not None)

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
            draining=self._draining,
        )

    def _tell_budget(self, gateway: PeerId) -> None:
        """Tell the gateway that changed it at once, and all others soon, once for all changes until then."""
        self._freed.notify()
        if link := self._gateways.get(gateway):
            link.tell(self._pong(0))
        if not self._telling:
            self._telling = asyncio.get_running_loop().call_later(TELL_S, self._tell_all)

    def _tell_all(self) -> None:
        self._telling = None
        pong = self._pong(0)
        for link in self._gateways.values():
            link.tell(pong)
