"""The sessions that a peer holds: what each one needs, and the cache budget that they share."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from peer.cursor import Cursor
from peer.model.cache import CacheBudget, SessionCache
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
        return self.downstream == self.gateway

    def abandoned(self, now: float, gateway_heard_at: float) -> str:
        """Why nobody needs this session any more, or nothing. Times by the monotonic clock."""
        if now - max(gateway_heard_at, self.opened_at) > GATEWAY_SILENT_S:
            return "its gateway is silent"
        forgotten = now - max(self.named_at, self.opened_at) > UNNAMED_S and now - gateway_heard_at < UNNAMED_S
        return "its gateway does not name it any more" if forgotten else ""


Fail = Callable[[Session, CorollaError], None]
"""Tells a session's gateway what went wrong, and ends the session."""


class Sessions:
    """All sessions of a peer. Opening and extending reserve cache; `close` ends a session, `free` gives it back.

    `on_budget` is called whenever what is free has changed, with the gateway of the session that changed it.
    """

    def __init__(self, budget: CacheBudget, on_budget: Callable[[PeerId], None]) -> None:
        self.budget = budget
        self._on_budget = on_budget
        self._sessions: dict[SessionId, Session] = {}
        self._closed_at: dict[SessionId, float] = {}

    def __len__(self) -> int:
        return len(self._sessions)

    def __iter__(self) -> Iterator[Session]:
        return iter(list(self._sessions.values()))

    @property
    def room_tokens(self) -> int:
        """The longest session that can be opened now."""
        return self.budget.room_tokens if len(self) < SESSIONS_LIMIT else 0

    def get(self, session: SessionId) -> Session | None:
        """The session with this id, unless it has ended."""
        found = self._sessions.get(session)
        return None if found is None or found.closed else found

    def add(self, session: Session) -> None:
        """Reserve the session's cache and hold it. Raises OutOfCache, or ProtocolError for an id in use."""
        if session.id in self._sessions or self.recently_closed(session.id):
            raise ProtocolError("a session with this id exists or existed here")
        if len(self._sessions) >= SESSIONS_LIMIT:
            raise OutOfCache(f"this peer holds {SESSIONS_LIMIT} sessions, its limit")
        if len({session.blocks, *(each.blocks for each in self._sessions.values())}) > RANGES_LIMIT:
            raise OutOfCache(f"sessions use {RANGES_LIMIT} different parts of this peer's blocks, its limit")
        session.cache_bytes = self.budget.open(session.blocks, session.reserve)
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
        self._closed_at[session.id] = time.monotonic()

    def free(self, session: Session) -> None:
        """Give the cache back. Only for a closed session that no forward uses."""
        assert session.closed
        if self._sessions.pop(session.id, None):
            self.budget.release(session.cache_bytes)
            self._on_budget(session.gateway)

    def recently_closed(self, session: str) -> bool:
        """True for a session that ended within the last minute: late frames of it are dropped in silence."""
        while self._closed_at:
            oldest, closed_at = next(iter(self._closed_at.items()))
            if time.monotonic() - closed_at <= REMEMBER_CLOSED_S:
                break
            del self._closed_at[oldest]
        return session in self._closed_at
