"""The peers that hold one session: what each was asked over its control link, and what it has answered."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Collection, Mapping

from gateway.swarm.control import Control, SessionOwner
from shared.changes import Changes
from shared.errors import HopFailed, LinkLost
from shared.types import PeerId, SessionId
from shared.wire import Extend, Extended, Open, Redirect, Report, Status

EXTEND_S = 10.0
STATUS_S = 1.2  # and three round trips


class Hops:
    """Who may hold the session, from `engage` to `let_go`; `news` tells of all that they say."""

    def __init__(
        self, session: SessionId, controls: Mapping[PeerId, Control], owner: SessionOwner, news: Changes
    ) -> None:
        self._session = session
        self._controls = controls
        self._owner = owner
        self._news = news
        self._engaged: dict[PeerId, Control] = {}
        self._held: dict[PeerId, int] = {}  # tokens of cache
        self._unextended: Counter[PeerId] = Counter()  # Extends that a hop has not answered; answers come in order
        self._reports: dict[PeerId, Report | None] = {}  # None: it does not hold the session
        self._inquiry = 0

    def engage(self, peer: PeerId, message: Open | Redirect) -> None:
        """Ask for a place in the chain. Raises HopFailed."""
        control = self._controls.get(peer)
        if control is None:
            raise HopFailed(peer, "lost", f"{peer} is not linked any more")
        self._engaged[peer] = control
        try:
            if isinstance(message, Open):
                self.forget(peer)
                control.open(message, self._owner)
            else:
                control.send(message)
        except LinkLost as error:
            raise HopFailed(peer, "lost", str(error)) from error

    def let_go(self, but: Collection[PeerId] = ()) -> None:
        """Close the session on all other peers."""
        for peer in set(self._engaged) - set(but):
            self._engaged.pop(peer).release(self._session)
            self.forget(peer)

    def opened(self, peer: PeerId, reserve: int) -> None:
        """It holds so many tokens."""
        self._held.setdefault(peer, reserve)

    def extended(self, peer: PeerId, message: Extended, asked: int) -> None:
        """It says what it holds; nothing counts that nobody has `asked` for."""
        if self._unextended[peer]:
            self._unextended[peer] -= 1
            self._held[peer] = max(self._held.get(peer, 0), min(message.reserve, asked))

    def reported(self, peer: PeerId, message: Report) -> None:
        """It says how far it is; late reports count for nothing."""
        if message.number == self._inquiry:
            self._reports[peer] = message

    def lost_session(self, peer: PeerId) -> None:
        """It does not hold the session any more."""
        self._reports[peer] = None
        self.forget(peer)

    def lost_link(self, peer: PeerId) -> None:
        """Nobody waits for its answers; what it holds it may still hold when it is back."""
        del self._unextended[peer]

    def forget(self, peer: PeerId) -> None:
        """What it has promised is void, and nobody waits for its answers."""
        self._held.pop(peer, None)
        del self._unextended[peer]

    def held(self, peers: Collection[PeerId]) -> int | None:
        """Tokens that each of these holds, as far as any of them does."""
        return min((self._held[peer] for peer in peers if peer in self._held), default=None)

    async def extend(self, peers: Collection[PeerId], reserve: int) -> bool:
        """Ask each of these to hold `reserve` tokens; False when not all have answered in time."""
        for peer in peers:
            if self._send(peer, Extend(session=self._session, reserve=reserve)):
                self._unextended[peer] += 1
        try:
            async with asyncio.timeout(EXTEND_S):
                while self._unextended.total():
                    await self._news.wait()
        except TimeoutError:
            return False
        return True

    async def reports(self, peers: Collection[PeerId]) -> tuple[dict[PeerId, Report], set[PeerId]]:
        """How far these say that they are, and who of them is linked and does not answer in time."""
        self._inquiry += 1
        self._reports = {}
        asked = [peer for peer in peers if self._send(peer, Status(session=self._session, number=self._inquiry))]
        slowest_s = max((self._controls[peer].round_trip_s for peer in asked), default=0.0)
        try:
            async with asyncio.timeout(STATUS_S + 3 * slowest_s):
                while self._silent(asked):
                    await self._news.wait()
        except TimeoutError:
            pass
        return {peer: report for peer, report in self._reports.items() if report}, self._silent(asked)

    def is_linked(self, peer: PeerId) -> bool:
        """True while its control link stands."""
        control = self._controls.get(peer)
        return control is not None and control.connected

    def forward_s(self, peer: PeerId) -> float:
        """How long a forward of this peer should take, by its own word."""
        control = self._controls.get(peer)
        return 1 / control.pong.tokens_per_s if control and control.pong and control.pong.tokens_per_s else 0.0

    def _silent(self, asked: Collection[PeerId]) -> set[PeerId]:
        return {peer for peer in asked if self.is_linked(peer)} - set(self._reports)

    def _send(self, peer: PeerId, message: Extend | Status) -> bool:
        """False where there is no link."""
        try:
            self._controls[peer].send(message)
        except (LinkLost, KeyError):
            return False
        return True
