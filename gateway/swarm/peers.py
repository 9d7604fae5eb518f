"""The peers that a gateway can use: their announcements, and a control link to each."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterable
from dataclasses import replace

from gateway.swarm.blame import blame_for
from gateway.swarm.control import Control
from gateway.swarm.routing import Candidate
from gateway.swarm.slowness import Slowness, slower_than_announced
from shared.announcement import Announcement
from shared.changes import Changes
from shared.errors import HopFailed
from shared.network import Network
from shared.pool import Dialler
from shared.types import BlockRange, Fingerprint, Numerics, PeerId, Span

logger = logging.getLogger(__name__)

CONTROLS_LIMIT = 256
HOP_OVERHEAD_S = 0.0005
SESSION_LOAD = 0.18
"""What each further session adds to a peer's step, of the time that one alone takes: they share one forward.
Measured on a CPU: 8 sessions take 2.4 times as long as one, 16 take 3.5 times."""
SLOWEST_TOKENS_PER_S = 0.01
SHUNNED_S = 3600.0
"""What a hop over a shunned peer costs beyond its time: any way around is shorter."""


class Peers:
    """Follows the table while `run` runs; `changes` tells of peers that come, go, or free cache."""

    def __init__(self, network: Network, dialler: Dialler, serves: Callable[[Fingerprint], bool]) -> None:
        self._network = network
        self._dialler = dialler
        self._serves = serves
        self._slowness = Slowness()
        self._refusals = network.refusals
        self._tasks: dict[PeerId, asyncio.Task[None]] = {}
        self.controls: dict[PeerId, Control] = {}
        self.changes = Changes()

    async def run(self) -> None:
        """Keep a control link to each peer of the models that this gateway serves; they last until `close`."""
        async for _ in self._network.changes():
            self.refresh()

    def close(self) -> None:
        """End all control links."""
        for peer in list(self.controls):
            self._drop(peer)

    def refresh(self) -> None:
        """Compare the links with the table, and tell of the change."""
        wanted = {each.peer for each in self.announced() if each.state != "joining" and self._serves(each.fingerprint)}
        for peer in set(self.controls) - wanted:
            if not self.controls[peer].owners:  # a session outlives the announcement of a peer that answers pings
                self._drop(peer)
        for peer in sorted(wanted - set(self.controls))[: CONTROLS_LIMIT - len(self.controls)]:
            self._add(peer)
        self.changes.notify()

    def announced(self) -> list[Announcement]:
        """Every live peer of the swarm, linked or not, of whatever model."""
        return [each for each in self._network.table if each.kind == "peer" and each.blocks]

    def linked(self, fingerprint: Fingerprint) -> list[Announcement]:
        """Peers of this model that are online and have answered on their control link."""
        return [each for each in self.announced() if each.fingerprint == fingerprint and self._usable(each)]

    def ranges(self, fingerprint: Fingerprint) -> list[BlockRange]:
        """What the linked peers of this model hold."""
        return [each.blocks for each in self.linked(fingerprint) if each.blocks]

    def candidates(self, fingerprint: Fingerprint) -> list[Candidate]:
        """The linked peers of this model, as routing sees them now.

        Shunned ones are left out but for blocks that nobody else holds: there they are worth another try.
        """
        linked = [each for each in self.linked(fingerprint) if each.blocks]
        shunned = [each for each in linked if each.peer in self._refusals.peers]
        trusted = [each for each in linked if each.peer not in self._refusals.peers]
        held = _blocks(trusted)
        tried = [*trusted, *(each for each in shunned if not _blocks([each]) <= held)]
        return [self._candidate(each, each.blocks, self.controls[each.peer]) for each in tried if each.blocks]

    def blame(self, error: HopFailed) -> None:
        """A session failed like this: leave whoever is at fault alone for a while."""
        blame = blame_for(error)
        if not blame:
            return
        self._refusals.count(blame.kind, error.reason)
        for peer in blame.peers & set(self.controls):
            shunned = self._refusals.peers
            (shunned.offends if blame.grave else shunned.slips)(peer, error.reason)

    def ran(self, span: Span, forward_s: float) -> None:
        """The decode steps of a session take so long there now: who is slower than announced is chosen less."""
        announcement, control = self._network.table.get(span.peer), self.controls.get(span.peer)
        if announcement and announcement.blocks and control and control.connected:
            candidate = self._candidate(announcement, announcement.blocks, control)
            factor = slower_than_announced(span, forward_s, candidate)
            self._slowness.observe(span.peer, factor, time.monotonic())

    def _usable(self, announcement: Announcement) -> bool:
        control = self.controls.get(announcement.peer)
        pong = control.pong if control and control.connected else None
        return announcement.state == "online" and pong is not None and not pong.draining

    def _candidate(self, announcement: Announcement, blocks: BlockRange, control: Control) -> Candidate:
        slowness = self._slowness.factor(announcement.peer, time.monotonic())
        candidate = _candidate(announcement, blocks, control, slowness)
        shunned_s = self._refusals.peers.seconds(announcement.peer)
        return replace(candidate, hop_s=candidate.hop_s + SHUNNED_S + shunned_s) if shunned_s else candidate

    def _add(self, peer: PeerId) -> None:
        control = Control(peer, self._dialler, self.changes.notify, lambda: self._network.drop(peer))
        self.controls[peer] = control
        self._tasks[peer] = asyncio.create_task(control.run())

    def _drop(self, peer: PeerId) -> None:
        self._tasks.pop(peer).cancel()
        self.controls.pop(peer).close()


class ModelPeers:
    """The peers of one model."""

    def __init__(self, peers: Peers, fingerprint: Fingerprint) -> None:
        self._peers = peers
        self._fingerprint = fingerprint

    def candidates(self) -> list[Candidate]:
        """All that can be used now, as routing sees them."""
        return self._peers.candidates(self._fingerprint)

    def blame(self, error: HopFailed) -> None:
        """A session failed like this."""
        self._peers.blame(error)

    def ran(self, span: Span, forward_s: float) -> None:
        """The decode steps of a session take so long there now."""
        self._peers.ran(span, forward_s)

    async def changed(self) -> None:
        """Return when other peers may be there, or have room."""
        await self._peers.changes.wait()


def _blocks(announcements: Iterable[Announcement]) -> set[int]:
    """All blocks that these hold together."""
    return {block for each in announcements if each.blocks for block in range(each.blocks.start, each.blocks.end)}


def _candidate(announcement: Announcement, blocks: BlockRange, control: Control, slowness: float) -> Candidate:
    pong = control.pong
    assert pong
    load = 1 + SESSION_LOAD * max(pong.sessions, len(control.owners))
    step_s = 1 / max(announcement.tokens_per_s, SLOWEST_TOKENS_PER_S)
    return Candidate(
        peer=announcement.peer,
        blocks=blocks,
        block_s=slowness * load * step_s / len(blocks),
        hop_s=control.round_trip_s / 2 + HOP_OVERHEAD_S,
        room_tokens=control.room_tokens,
        longest_tokens=max(pong.longest_tokens, pong.room_tokens),
        load=load,
        slowness=slowness,
        numerics=_words(announcement.numerics),
    )


def _words(numerics: Numerics | None) -> str:
    return f"{numerics.dtype} {numerics.quantization} {numerics.wire}" if numerics else ""
