"""Dialling nodes by their peer ID, and data links kept for the next session that needs one."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Callable, Sequence

from shared.errors import CorollaError, LinkLost, ProtocolError
from shared.handshake import dial
from shared.identity import Identity
from shared.links import Link, Role
from shared.types import PeerId
from shared.wire import AnyMessage

DIAL_S = 5.0
IDLE_S = 60.0
IDLE_LIMIT = 64

Addresses = Callable[[PeerId], Sequence[tuple[str, int]]]


class Dialler:
    """Makes links to peers whose addresses its own table knows: nobody can be told where to dial."""

    def __init__(self, identity: Identity, swarm: str, addresses: Addresses) -> None:
        self._identity = identity
        self._swarm = swarm
        self._addresses = addresses

    async def dial(self, peer: PeerId, role: Role) -> Link:
        """The first link that stands, all addresses being tried at once. Raises LinkLost with the last reason."""
        addresses = self._addresses(peer)
        if not addresses:
            raise LinkLost(f"no address of {peer} is known")
        attempts = [asyncio.create_task(self._try(peer, host, port, role)) for host, port in addresses]
        try:
            return await _first(attempts, peer)
        finally:
            for attempt in attempts:
                attempt.cancel()
            await asyncio.gather(*attempts, return_exceptions=True)

    async def _try(self, peer: PeerId, host: str, port: int, role: Role) -> Link:
        return await dial(host, port, to=peer, identity=self._identity, swarm=self._swarm, role=role, deadline_s=DIAL_S)


async def _first(attempts: list[asyncio.Task[Link]], peer: PeerId) -> Link:
    reason = ""
    winner: Link | None = None
    for attempt in asyncio.as_completed(attempts):
        try:
            winner = await attempt
        except CorollaError as error:
            reason = str(error)
        else:
            break
    if winner is None:
        raise LinkLost(f"{peer} cannot be reached: {reason}")
    for attempt in attempts:  # two may have ended in the same turn of the loop
        if attempt.done() and not attempt.cancelled() and not attempt.exception() and attempt.result() is not winner:
            attempt.result().close("another address answered first")
    return winner


class LinkPool:
    """Data links to any peer: an idle one if there is one, else a new one."""

    def __init__(self, dialler: Dialler) -> None:
        self._dialler = dialler
        self._idle: defaultdict[PeerId, list[Link]] = defaultdict(list)
        self._timers: dict[Link, asyncio.TimerHandle] = {}

    async def acquire(self, peer: PeerId) -> Link:
        """A link that nobody else uses. Raises LinkLost."""
        while self._idle[peer]:
            link = self._idle[peer].pop()
            self._timers.pop(link).cancel()
            if not link.closed:
                return link
        return await self._dialler.dial(peer, "data")

    def release(self, link: Link) -> None:
        """Keep the link for the next session, for a minute."""
        if link.closed or len(self._timers) >= IDLE_LIMIT:
            link.close("not needed")
            return
        link.start(self)
        self._idle[link.peer].append(link)
        self._timers[link] = asyncio.get_running_loop().call_later(IDLE_S, self._expire, link)

    def close(self) -> None:
        """End all idle links."""
        for link in list(self._timers):
            self._expire(link)

    def received(self, link: Link, message: AnyMessage, payload: memoryview) -> None:
        if isinstance(getattr(message, "session", None), str):
            return  # late words about the session that this link served before
        raise ProtocolError(f"a {type(message).__name__} on a link that is not in use")

    def lost(self, link: Link, reason: str) -> None:
        if link in self._timers:
            self._forget(link)

    def _expire(self, link: Link) -> None:
        self._forget(link)
        link.close("idle")

    def _forget(self, link: Link) -> None:
        self._timers.pop(link).cancel()
        self._idle[link.peer].remove(link)
