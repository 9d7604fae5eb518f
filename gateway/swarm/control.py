"""The gateway's control link to one peer: sessions are opened over it, and its pings tell life from silence."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Protocol

from shared.errors import CorollaError, LinkLost, ProtocolError
from shared.links import Link
from shared.pool import Dialler
from shared.types import PeerId, SessionId
from shared.wire import (
    AnyMessage,
    Close,
    Extended,
    Failure,
    Message,
    Open,
    Opened,
    Ping,
    Pong,
    Redirected,
    Report,
)

logger = logging.getLogger(__name__)

PING_S = 1.0
SILENCE_S = 2.5
RETRY_S = (0.5, 1.0, 2.0, 5.0, 10.0)
NAMED_LIMIT = 1024


SessionMessage = Opened | Redirected | Extended | Report | Failure


class SessionOwner(Protocol):
    """Who hears what a hop says about a session: its chain."""

    def hop_said(self, peer: PeerId, message: SessionMessage) -> None:
        """An answer, or that something failed."""
        ...

    def hop_lost(self, peer: PeerId, reason: str) -> None:
        """The peer is gone, or cannot be heard any more."""
        ...

    def hop_drains(self, peer: PeerId) -> None:
        """The peer wants to leave, and still serves the session."""
        ...


class Control:
    """Keeps a control link to `peer` while `run` runs; the handler of that link."""

    def __init__(self, peer: PeerId, dialler: Dialler, on_change: Callable[[], None], on_dead: Callable[[], None]):
        self.peer = peer
        self.pong: Pong | None = None
        self.round_trip_s = 0.0
        self.owners: dict[SessionId, SessionOwner] = {}
        self._dialler = dialler
        self._on_change = on_change
        self._on_dead = on_dead
        self._link: Link | None = None
        self._ended = asyncio.Event()
        self._untold: deque[SessionId] = deque(maxlen=NAMED_LIMIT)  # ended while there was no link
        self._room_tokens = 0
        self._unanswered: dict[SessionId, int] = {}  # tokens of the Opens that the peer has not answered yet
        self._pings: deque[tuple[int, float]] = deque(maxlen=16)
        self._ping_number = 0
        self._answered = self._was_linked = False

    @property
    def connected(self) -> bool:
        """True once the peer has answered a ping on the link that stands."""
        return self._link is not None and self.pong is not None

    @property
    def room_tokens(self) -> int:
        """The longest session that an Open could still get, as far as this gateway knows.

        What was asked for counts as taken until it is answered, so that requests that come at once do not all choose
        the same full peer. A Pong that comes in between counts it twice; the answer sets that right.
        """
        return max(0, self._room_tokens - sum(self._unanswered.values()))

    def open(self, message: Open, owner: SessionOwner) -> None:
        """Ask for a session, of which `owner` hears until `release`. Raises LinkLost."""
        session = SessionId(message.session)
        self.owners[session] = owner
        self._unanswered[session] = message.reserve
        self.send(message)

    def release(self, session: SessionId) -> None:
        """Tell the peer that a session has ended: when it is back, if there is no link now."""
        self.owners.pop(session, None)
        self._answered_open(session)
        try:
            self.send(Close(session=session))
        except LinkLost:
            self._untold.append(session)

    def send(self, message: Message) -> None:
        """Raises LinkLost."""
        if self._link is None:
            raise LinkLost(f"there is no control link to {self.peer}")
        self._link.send(message)

    async def run(self) -> None:
        """Dial, ping, dial again, for ever. A peer that was linked and cannot be dialled any more is dead."""
        failures = 0
        while True:
            self._answered = False
            try:
                await self._connect()
                await self._ping_until_lost()
            except CorollaError as error:
                logger.info("no control link to %s: %s", self.peer, error)
                if self._was_linked or failures + 1 == len(RETRY_S):
                    self._on_dead()
                self._was_linked = False
            failures = 0 if self._answered else failures + 1
            if failures:
                await asyncio.sleep(RETRY_S[min(failures, len(RETRY_S)) - 1])

    def close(self) -> None:
        if self._link:
            self._link.close("the gateway is done with this peer")

    def received(self, link: Link, message: AnyMessage, payload: memoryview) -> None:
        match message:
            case Pong():
                self._pong(message)
            case Opened():
                self._answered_open(SessionId(message.session))
                self._tell_owner(message.session, message)
            case Extended():
                self._tell_owner(message.session, message)
            case Redirected() | Report():
                self._answered_open(SessionId(message.session))  # by orders that came after it
                self._tell_owner(message.session, message)
            case Failure():
                self._failure(message)
            case _:
                raise ProtocolError(f"a {type(message).__name__} does not belong on a control link")

    def lost(self, link: Link, reason: str) -> None:
        if link is not self._link:
            return
        self._link = None
        self.pong = None
        for owner in list(self.owners.values()):
            owner.hop_lost(self.peer, reason)
        self._ended.set()
        self._on_change()

    async def _connect(self) -> None:
        link = await self._dialler.dial(self.peer, "control")
        self._ended.clear()
        self._link = link
        link.start(self)
        while self._untold:
            link.tell(Close(session=self._untold.popleft()))

    async def _ping_until_lost(self) -> None:
        """A silence counts from when this process last ran on time: its own stall is no fault of the peer's."""
        awake_since = woken_at = time.monotonic()
        while self._link and not self._ended.is_set():
            now = time.monotonic()
            if now - woken_at > 2 * PING_S:
                awake_since = now
            woken_at = now
            silent_s = now - max(self._link.heard_at, awake_since)
            if silent_s > SILENCE_S:
                self._link.abort(f"nothing was heard for {SILENCE_S:g} s")
            elif not self._link.closed:
                self._ping(self._link)
            with suppress(TimeoutError):
                async with asyncio.timeout(max(0.01, min(PING_S, SILENCE_S - silent_s))):
                    await self._ended.wait()

    def _ping(self, link: Link) -> None:
        self._ping_number += 1
        self._pings.append((self._ping_number, time.monotonic()))
        link.tell(Ping(number=self._ping_number, sessions=tuple(self.owners)[:NAMED_LIMIT]))

    def _pong(self, pong: Pong) -> None:
        sent_at = dict(self._pings).get(pong.number)
        if sent_at is not None:
            self.round_trip_s = time.monotonic() - sent_at
        self._answered = self._was_linked = True
        told = self.pong and (self.pong.free_cache_tokens, self.pong.sessions, self._room_tokens)
        news = pong.number == 0 or pong.draining or told != (pong.free_cache_tokens, pong.sessions, pong.room_tokens)
        drains = pong.draining and not (self.pong and self.pong.draining)
        self.pong = pong
        self._room_tokens = pong.room_tokens
        if drains:
            for owner in list(self.owners.values()):
                owner.hop_drains(self.peer)
        if news:
            self._on_change()

    def _answered_open(self, session: SessionId) -> int | None:
        """The tokens that an Open asked for, if this is the first answer to it."""
        asked = self._unanswered.pop(session, None)
        if asked is not None:
            self._on_change()
        return asked

    def _tell_owner(self, session: str, message: SessionMessage) -> None:
        if owner := self.owners.get(SessionId(session)):
            owner.hop_said(self.peer, message)

    def _failure(self, failure: Failure) -> None:
        blamed = PeerId(failure.peer or self.peer)
        session = SessionId(failure.session or "")
        asked = self._answered_open(session)
        if asked and failure.code == "out_of_cache" and blamed == self.peer:
            self._room_tokens = min(self._room_tokens, asked - 1)  # until its next Pong
        if failure.session:
            self._tell_owner(failure.session, failure)
        else:
            logger.warning("%s says: %s", self.peer, failure.reason)
