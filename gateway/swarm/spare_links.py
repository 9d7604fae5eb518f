"""Data links to those who would take a hop's place, made in advance: a failover has no time to make them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from itertools import pairwise

from gateway.swarm.control import Control
from gateway.swarm.routing import Candidate, Route, choose_route
from shared.errors import LinkLost, NoRoute, OutOfCache
from shared.pool import LinkPool
from shared.types import PeerId
from shared.wire import Warm

AGAIN_S = 10.0
PEERS_LIMIT = 8  # in one Warm


class SpareLinks:
    """Asks for links along which a route would go on, if any one of its hops died."""

    def __init__(self, me: PeerId, controls: Mapping[PeerId, Control], pool: LinkPool) -> None:
        self._me = me
        self._controls = controls
        self._pool = pool
        self._asked_at: dict[tuple[PeerId, PeerId], float] = {}
        self._dialling: set[asyncio.Task[None]] = set()

    def prepare(self, route: Route, candidates: Sequence[Candidate]) -> None:
        """Ask whoever would have to dial, unless that was done lately."""
        now = time.monotonic()
        self._asked_at = {pair: at for pair, at in self._asked_at.items() if now - at < AGAIN_S}
        wanted: dict[PeerId, set[PeerId]] = {}
        for dialler, peer in detours(self._me, route, candidates):
            if (dialler, peer) not in self._asked_at:
                self._asked_at[dialler, peer] = now
                wanted.setdefault(dialler, set()).add(peer)
        for dialler, peers in wanted.items():
            self._ask(dialler, peers)

    def close(self) -> None:
        """Dial nobody any more."""
        for task in self._dialling:
            task.cancel()

    def _ask(self, dialler: PeerId, peers: Iterable[PeerId]) -> None:
        if dialler == self._me:
            for peer in peers:
                task = asyncio.create_task(self._pool.warm(peer))
                self._dialling.add(task)
                task.add_done_callback(self._dialling.discard)
        elif control := self._controls.get(dialler):
            with suppress(LinkLost):
                control.send(Warm(peers=tuple(sorted(peers)[:PEERS_LIMIT])))


def detours(me: PeerId, route: Route, candidates: Sequence[Candidate]) -> Iterator[tuple[PeerId, PeerId]]:
    """Who would dial whom if a hop of the route died, for each of its hops; the gateway `me` dials both ends. Pure."""
    used = {span.peer for span in route}
    spares = [each for each in candidates if each.peer not in used]
    nodes = [me, *(span.peer for span in route), me]
    for before, span, after in zip(nodes, route, nodes[2:], strict=False):
        with suppress(NoRoute, OutOfCache):
            around = [each.peer for each in choose_route(spares, "", span.blocks, reserve=0)]
            for sender, receiver in pairwise((before, *around, after)):
                yield (me, sender) if receiver == me else (sender, receiver)
