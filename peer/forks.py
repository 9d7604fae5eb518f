"""Copies of caches that are asked for: which one is next, and which sessions they hold."""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import dataclass, field

from peer.sessions import Session
from shared.types import PeerId


@dataclass(frozen=True, slots=True, eq=False)
class Fork:
    """A session that is to begin as a copy of its `parent`, a session of the same gateway."""

    session: Session
    parent: Session
    over: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when the copy is made, has failed or is not wanted any more."""


class Forks:
    """Copies that wait, and the one that is being made. Gateways take turns: whoever asks for many delays its own."""

    def __init__(self) -> None:
        self._forks: dict[Session, Fork] = {}
        self._parents: Counter[Session] = Counter()
        self._waiting: dict[PeerId, dict[Session, Fork]] = {}

    @property
    def any_wait(self) -> bool:
        """True when a copy can be begun."""
        return bool(self._waiting)

    def of(self, session: Session) -> Fork | None:
        """The copy that the session is to begin with, until it is over."""
        return self._forks.get(session)

    def holds(self, session: Session) -> bool:
        """True while a copy to or from the session's cache is not over: nothing else may change that, or free it."""
        return session in self._forks or session in self._parents

    def add(self, session: Session, parent: Session) -> None:
        """The copy waits, behind those of its gateway that wait already."""
        fork = Fork(session, parent)
        self._forks[session] = fork
        self._parents[parent] += 1
        self._waiting.setdefault(session.gateway, {})[session] = fork

    def begin(self) -> Fork:
        """The next copy, of the gateway that was served longest ago; it is over when `end` is told so."""
        gateway, waiting = next(iter(self._waiting.items()))
        fork = waiting.pop(next(iter(waiting)))
        del self._waiting[gateway]
        if waiting:
            self._waiting[gateway] = waiting  # behind the others
        return fork

    def withdraw(self, session: Session) -> Fork | None:
        """The session's copy, if it has not begun: it is over, unmade."""
        waiting = self._waiting.get(session.gateway, {})
        fork = waiting.pop(session, None)
        if fork:
            if not waiting:
                del self._waiting[session.gateway]
            self.end(fork)
        return fork

    def end(self, fork: Fork) -> None:
        """The copy holds its sessions no more."""
        del self._forks[fork.session]
        self._parents[fork.parent] -= 1
        if not self._parents[fork.parent]:
            del self._parents[fork.parent]
        fork.over.set()
