"""Opening chains: wait for room, choose a route, reserve on its hops, try another one when a hop refuses."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from gateway.swarm.admission import Admission
from gateway.swarm.chain import Chain, OnHops
from gateway.swarm.peers import Peers
from gateway.swarm.routing import check_possible, choose_route
from shared.errors import CacheFull, CorollaError, HopFailed, NoRoute, OutOfCache
from shared.pool import LinkPool
from shared.types import Fingerprint, PeerId

logger = logging.getLogger(__name__)

ATTEMPTS = 3
RETRY_S = (0.05, 0.2)


@dataclass(frozen=True, slots=True)
class Model:
    """What a chain runs: the public id (for messages), what decides that peers hold the same, and its depth."""

    id: str
    fingerprint: Fingerprint
    blocks: int
    peer_flags: str  # with which `peer start` serves it


class Swarm:
    """Makes chains over the peers that can be used now."""

    def __init__(
        self,
        me: PeerId,
        peers: Peers,
        pool: LinkPool,
        admission: Admission,
        on_hops: OnHops = lambda peer, spent: None,
    ) -> None:
        self._me = me
        self._peers = peers
        self._pool = pool
        self._admission = admission
        self._on_hops = on_hops

    @asynccontextmanager
    async def open_chain(self, model: Model, reserve: int, resuming: bool) -> AsyncGenerator[Chain, None]:
        """A chain with room for `reserve` tokens, once there is room; a stream that goes on (`resuming`) comes first.

        Raises NoRoute, OutOfCache, QueueFull, QueueTimeout, HopFailed.
        """
        chain = await self._open(model, reserve, resuming)
        try:
            yield chain
        finally:
            chain.close()

    async def _open(self, model: Model, reserve: int, resuming: bool) -> Chain:
        check_possible(self._peers.candidates(model.fingerprint), model.id, model.blocks, reserve)
        place = self._admission.arrive(model.fingerprint, resuming)
        refused: dict[PeerId, CorollaError] = {}
        while len(refused) < ATTEMPTS:
            chain = await self._admission.passes(place, lambda: self._prepare(model, reserve, refused))
            try:
                await chain.open(model.fingerprint, reserve)
            except HopFailed as error:
                chain.close()
                logger.warning("a session could not be opened: %s", error)
                if error.code == "out_of_cache":  # its room is known better now, and a Pong tells when it grows
                    place.sent_back = True
                else:
                    on_route = any(span.peer == error.peer for span in chain.route)
                    refused[error.peer if on_route else chain.route[0].peer] = error
                await asyncio.sleep(random.uniform(*RETRY_S))
            except BaseException:
                chain.close()
                raise
            else:
                return chain
        raise _last(refused)

    def _prepare(self, model: Model, reserve: int, refused: dict[PeerId, CorollaError]) -> Chain:
        """A chain that is not opened yet, over peers that have not refused. Raises NoRoute, OutOfCache, CacheFull."""
        candidates = [each for each in self._peers.candidates(model.fingerprint) if each.peer not in refused]
        try:
            route = choose_route(candidates, model.id, model.blocks, reserve)
        except CacheFull:
            raise
        except (NoRoute, OutOfCache):
            if refused:
                raise _last(refused) from None
            raise
        return Chain(self._me, route, self._peers.controls, self._pool, self._on_hops)


def _last(refused: dict[PeerId, CorollaError]) -> CorollaError:
    return list(refused.values())[-1]
