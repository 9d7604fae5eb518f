"""The peers that a gateway can use: their announcements, and a control link to each."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from gateway.swarm.control import Control
from gateway.swarm.routing import Candidate
from shared.announcement import Announcement
from shared.changes import Changes
from shared.network import Network
from shared.pool import Dialler
from shared.types import BlockRange, Fingerprint, PeerId

logger = logging.getLogger(__name__)

CONTROLS_LIMIT = 256
HOP_OVERHEAD_S = 0.0005
SESSION_LOAD = 0.18
"""What each further session adds to a peer's step, of the time that one alone takes: they share one forward.
Measured on a CPU: 8 sessions take 2.4 times as long as one, 16 take 3.5 times."""
SLOWEST_TOKENS_PER_S = 0.01


class Peers:
    """Follows the table while `run` runs; `changes` tells of peers that come, go, or free cache."""

    def __init__(self, network: Network, dialler: Dialler, serves: Callable[[Fingerprint], bool]) -> None:
        self._network = network
        self._dialler = dialler
        self._serves = serves
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
        """The linked peers of this model, as routing sees them now."""
        return [
            _candidate(each, each.blocks, self.controls[each.peer]) for each in self.linked(fingerprint) if each.blocks
        ]

    def _usable(self, announcement: Announcement) -> bool:
        control = self.controls.get(announcement.peer)
        return announcement.state == "online" and control is not None and control.connected

    def _add(self, peer: PeerId) -> None:
        control = Control(peer, self._dialler, self.changes.notify, lambda: self._network.drop(peer))
        self.controls[peer] = control
        self._tasks[peer] = asyncio.create_task(control.run())

    def _drop(self, peer: PeerId) -> None:
        self._tasks.pop(peer).cancel()
        self.controls.pop(peer).close()


def _candidate(announcement: Announcement, blocks: BlockRange, control: Control) -> Candidate:
    pong = control.pong
    assert pong
    load = 1 + SESSION_LOAD * max(pong.sessions, len(control.owners))
    step_s = 1 / max(announcement.tokens_per_s, SLOWEST_TOKENS_PER_S)
    return Candidate(
        peer=announcement.peer,
        blocks=blocks,
        block_s=load * step_s / len(blocks),
        hop_s=control.round_trip_s / 2 + HOP_OVERHEAD_S,
        room_tokens=control.room_tokens,
        longest_tokens=max(pong.longest_tokens, pong.room_tokens),
    )
