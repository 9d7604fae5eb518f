"""Dialling nodes by their peer ID, and data links kept for the next session that needs one."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import suppress

from shared.errors import CorollaError, LinkLost, ProtocolError
from shared.handshake import dial
from shared.identity import Identity
from shared.links import Link, Role, Traffic
from shared.refusals import Refusals
from shared.types import PeerId
from shared.wire import AnyMessage, Failure

DIAL_S = 5.0
IDLE_S = 60.0
IDLE_LIMIT = 64

Addresses = Callable[[PeerId], Sequence[tuple[str, int]]]


class Dialler:
    """Makes links to peers whose addresses its own table knows: nobody can be told where to dial."""

    def __init__(
        self,
        identity: Identity,
        swarm: str,
        addresses: Addresses,
        traffic: Traffic | None = None,
        refusals: Refusals | None = None,
    ) -> None:
        self._traffic = traffic or Traffic()
        self._refusals = refusals or Refusals()
        self._identity = identity
        self._swarm = swarm
        self._addresses = addresses

    async def dial(self, peer: PeerId, role: Role) -> Link:
        """The first link that stands, all addresses being tried at once. Raises LinkLost with the last reason."""
        addresses = self._addresses(peer)
        if not addresses:
            raise LinkLost(f"no address of {peer} is known")
        attempts = [asyncio.create_task(self._try(peer, host, port, role)) for host, port in addresses]
        winner: Link | None = None
        try:
            winner = await _first(attempts, peer)
            return winner
        finally:
            for attempt in attempts:
                attempt.cancel()
                attempt.add_done_callback(lambda ended: _close_loser(ended, winner))

    async def _try(self, peer: PeerId, host: str, port: int, role: Role) -> Link:
        return await dial(
            host,
            port,
            to=peer,
            identity=self._identity,
            swarm=self._swarm,
            role=role,
            deadline_s=DIAL_S,
            traffic=self._traffic,
            refusals=self._refusals,
        )


async def _first(attempts: list[asyncio.Task[Link]], peer: PeerId) -> Link:
    reason = ""
    for attempt in asyncio.as_completed(attempts):
        try:
            return await attempt
        except CorollaError as error:
            reason = str(error)
    raise LinkLost(f"{peer} cannot be reached: {reason}")


def _close_loser(attempt: asyncio.Task[Link], winner: Link | None) -> None:
    """Of several addresses more than one may have answered, or the dialler may have gone meanwhile."""
    if not attempt.cancelled() and not attempt.exception() and attempt.result() is not winner:
        attempt.result().close("another address answered first")


class LinkPool:
    """Data links to any peer: an idle one if there is one, else a new one."""

    def __init__(self, dialler: Dialler) -> None:
        self._dialler = dialler
        self._idle: dict[PeerId, list[Link]] = {}
        self._timers: dict[Link, asyncio.TimerHandle] = {}

    async def acquire(self, peer: PeerId) -> Link:
        """A link that nobody else uses. Raises LinkLost."""
        while idle := self._idle.get(peer):
            link = idle[-1]
            self._forget(link)
            if not link.closed:
                return link
        return await self._dialler.dial(peer, "data")

    async def warm(self, peer: PeerId) -> None:
        """Have an idle link to this peer, if it can be reached: soon there may be no time to make one."""
        with suppress(CorollaError):
            self.release(await self.acquire(peer))  # one that is idle already is kept for another minute

    def release(self, link: Link) -> None:
        """Keep the link for the next session, for a minute."""
        if link.closed or len(self._timers) >= IDLE_LIMIT:
            link.close("not needed")
            return
        link.start(self)
        self._idle.setdefault(link.peer, []).append(link)
        self._timers[link] = asyncio.get_running_loop().call_later(IDLE_S, self._expire, link)

    def close(self) -> None:
        """End all idle links."""
        for link in list(self._timers):
            self._expire(link)

    def received(self, link: Link, message: AnyMessage, payload: memoryview) -> None:
        if isinstance(message, Failure) or isinstance(getattr(message, "session", None), str):
            return  # why the other side ends the link, or late words about the session that it served before
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
        if not self._idle[link.peer]:
            del self._idle[link.peer]
