"""The sessions that a peer holds: what each one needs, and the cache budget that they share."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from peer.cursor import Cursor
from peer.model.cache import CacheBudget, SessionCache
from peer.outbox import Outbox, OutboxBudget
from shared.edges import DialledEdge, Inlet, Outlet
from shared.errors import CorollaError, OutOfCache, ProtocolError
from shared.types import BlockRange, PeerId, SessionId
from shared.wire import Step

SESSIONS_LIMIT = 1024
RANGES_LIMIT = 16
"""Different parts of the range that sessions may use at one time: each gets forwards of its own."""

NEEDED_SOON_TOKENS = 2048
"""A session that asks for room within so many tokens of those that it has is about to need it."""

UNNAMED_S = 15.0
GATEWAY_SILENT_S = 30.0
REMEMBER_CLOSED_S = 60.0


@dataclass(slots=True, eq=False)
class Waiting:
    """A step in a session's queue: its first `done` tokens have run; `since` when it came, by the monotonic clock."""

    step: Step
    payload: memoryview
    since: float
    done: int = 0

    @property
    def left(self) -> int:
        """Tokens that have not run."""
        return self.step.count - self.done


@dataclass(slots=True, eq=False)
class Session:
    """One sequence being generated, as this hop sees it."""

    id: SessionId
    gateway: PeerId
    upstream: PeerId
    downstream: PeerId
    blocks: BlockRange
    reserve: int
    cursor: Cursor
    cache: SessionCache
    outbox: Outbox = field(init=False)  # `Sessions` gives it one
    output: str = "hidden"  # what a gateway downstream gets: outputs, or with "steps" those for the next hop
    forward_from: int = 0  # hops after this one have what it makes of positions below
    replay_from: int | None = None  # the outbox is sent again from here on, before new steps run
    done: int = 0  # end of what has run and was sent on, or is kept in the outbox
    done_round: int = 0  # in which that was, of the cursor's epoch
    fenced: bool = False  # something failed: no step is taken until the gateway redirects the session
    cache_bytes: int = 0  # of the peer's budget; what `Sessions` took for it, and gives back
    queue: deque[Waiting] = field(default_factory=deque)
    inlet: Inlet | None = None
    outlet: Outlet | None = None
    edge: DialledEdge | None = None  # to the next hop; the last hop answers on a link that the gateway dialled
    outlet_stands: asyncio.Event = field(default_factory=asyncio.Event)
    opened_at: float = field(default_factory=time.monotonic)
    named_at: float = 0.0  # when the gateway last named the session, in a Ping or a step
    closed: bool = False

    @property
    def last(self) -> bool:
        """True when this hop ends the chain."""
        return self.downstream == self.gateway and self.output == "hidden"

    def fence(self) -> None:
        """Drop what waits, and take no more: steps that come meanwhile are lost."""
        self.fenced = True
        self.queue.clear()
        self.replay_from = None

    def rejoin(self, epoch: int, length: int, forward_from: int) -> None:
        """Go on from `length` in a new epoch; what was made of positions from `forward_from` on is sent again."""
        self.fence()
        self.cursor = Cursor(epoch, length=length, dropped=self.cursor.dropped)
        self.done, self.done_round = length, 0
        self.outbox.crop(length)
        self.forward_from = forward_from
        self.replay_from = forward_from if forward_from < length and not self.last else None
        self.fenced = False

    def abandoned(self, now: float, gateway_heard_at: float) -> str:
        """Why nobody needs this session any more, or nothing. Times by the monotonic clock."""
        if now - max(gateway_heard_at, self.opened_at) > GATEWAY_SILENT_S:
            return "its gateway is silent"
        forgotten = now - max(self.named_at, self.opened_at) > UNNAMED_S and now - gateway_heard_at < UNNAMED_S
        return "its gateway does not name it any more" if forgotten else ""


Fail = Callable[[Session, CorollaError], None]
"""Fences a session and tells its gateway what went wrong, which redirects or closes it."""


class Sessions:
    """All sessions of a peer. Opening and extending reserve cache; `close` ends a session, `free` gives it back.

    `on_budget` is called whenever what is free has changed, with the gateway of the session that changed it.
    """

    def __init__(self, budget: CacheBudget, outboxes: OutboxBudget, on_budget: Callable[[PeerId], None]) -> None:
        self.budget = budget
        self.outboxes = outboxes
        self._late_frames = 0  # of sessions that are gone
        self._on_budget = on_budget
        self._sessions: dict[SessionId, Session] = {}
        self._ending: set[Session] = set()  # a forward uses them still, and they have been opened anew
        self._closed: dict[SessionId, tuple[int, float]] = {}  # epoch, and when

    def __len__(self) -> int:
        return len(self._sessions) + len(self._ending)

    def __iter__(self) -> Iterator[Session]:
        return iter(list(self._sessions.values()))

    @property
    def room_tokens(self) -> int:
        """The longest session that can be opened now."""
        return self.budget.room_tokens if len(self) < SESSIONS_LIMIT else 0

    @property
    def late_frames(self) -> int:
        """Frames that came too late to be taken, of all sessions so far."""
        return self._late_frames + sum(session.cursor.dropped for session in self._sessions.values())

    def get(self, session: SessionId) -> Session | None:
        """The session with this id, unless it has ended."""
        found = self._sessions.get(session)
        return None if found is None or found.closed else found

    def add(self, session: Session) -> None:
        """Reserve the session's cache and hold it. Raises OutOfCache, or ProtocolError for an id in use."""
        if self.get(session.id) or self.has_ended(session.id, session.cursor.epoch):
            raise ProtocolError("a session with this id exists or existed here")
        if len(self._sessions) >= SESSIONS_LIMIT:
            raise OutOfCache(f"this peer holds {SESSIONS_LIMIT} sessions, its limit")
        if len({session.blocks, *(each.blocks for each in self._sessions.values())}) > RANGES_LIMIT:
            raise OutOfCache(f"sessions use {RANGES_LIMIT} different parts of this peer's blocks, its limit")
        session.cache_bytes = self.budget.open(session.blocks, session.reserve)
        session.outbox = self.outboxes.box(session.done)
        if earlier := self._sessions.get(session.id):
            self._ending.add(earlier)
        self._sessions[session.id] = session
        self._on_budget(session.gateway)

    def extend(self, session: Session, reserve: int) -> None:
        """Let the session grow to `reserve` tokens; with less than it holds, nothing changes. Raises OutOfCache."""
        if reserve <= session.reserve:
            return
        session.cache_bytes = self.budget.extend(
            session.cache_bytes, session.blocks, reserve, needed=reserve <= session.cursor.length + NEEDED_SOON_TOKENS
        )
        session.cache.grow(reserve)
        session.reserve = reserve
        self._on_budget(session.gateway)

    def close(self, session: Session) -> None:
        """End the session: no step of it runs any more, and late frames are known as such."""
        session.closed = True
        session.queue.clear()
        self._closed.pop(session.id, None)  # the oldest come first
        self._closed[session.id] = (session.cursor.epoch, time.monotonic())

    def free(self, session: Session) -> None:
        """Give the cache back. Only for a closed session that no forward uses."""
        assert session.closed
        if self._sessions.get(session.id) is session:
            del self._sessions[session.id]
        elif session in self._ending:
            self._ending.remove(session)
        else:
            return
        self._late_frames += session.cursor.dropped
        self.budget.release(session.cache_bytes)
        self.outboxes.forget(session.outbox)
        self._on_budget(session.gateway)

    def has_ended(self, session: str, epoch: int) -> bool:
        """True when a session ended within the last minute, in this epoch or later: late frames are dropped in silence.

        In a later epoch it may be opened again.
        """
        while self._closed:
            oldest, (_, closed_at) = next(iter(self._closed.items()))
            if time.monotonic() - closed_at <= REMEMBER_CLOSED_S:
                break
            del self._closed[oldest]
        last, _ = self._closed.get(SessionId(session), (-1, 0.0))
        return epoch <= last
