"""Opening chains: choose a route, reserve on its hops, try another one when a hop refuses."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from gateway.swarm.chain import Chain
from gateway.swarm.peers import Peers
from gateway.swarm.routing import choose_route
from shared.errors import CorollaError, HopFailed, NoRoute, OutOfCache
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

    def __init__(self, me: PeerId, peers: Peers, pool: LinkPool) -> None:
        self._me = me
        self._peers = peers
        self._pool = pool

    @asynccontextmanager
    async def open_chain(self, model: Model, reserve: int) -> AsyncGenerator[Chain, None]:
        """A chain with room for `reserve` tokens. Raises NoRoute, OutOfCache, HopFailed, DeadlinePassed."""
        chain = await self._open(model, reserve)
        try:
            yield chain
        finally:
            chain.close()

    async def _open(self, model: Model, reserve: int) -> Chain:
        refused: dict[PeerId, CorollaError] = {}
        for _ in range(ATTEMPTS):
            chain = self._prepare(model, reserve, refused)
            try:
                await chain.open(model.fingerprint, reserve)
            except HopFailed as error:
                chain.close()
                logger.warning("a session could not be opened: %s", error)
                on_route = any(span.peer == error.peer for span in chain.route)
                refused[error.peer if on_route else chain.route[0].peer] = error
                await asyncio.sleep(random.uniform(*RETRY_S))
            except BaseException:
                chain.close()
                raise
            else:
                return chain
        raise _summary(refused)

    def _prepare(self, model: Model, reserve: int, refused: dict[PeerId, CorollaError]) -> Chain:
        candidates = [each for each in self._peers.candidates(model.fingerprint) if each.peer not in refused]
        try:
            route = choose_route(candidates, model.id, model.blocks, reserve)
        except (NoRoute, OutOfCache):
            if refused:
                raise _summary(refused) from None
            raise
        return Chain(self._me, route, self._peers.controls, self._pool)


def _summary(refused: dict[PeerId, CorollaError]) -> CorollaError:
    """The last refusal; where only room was missing, just that."""
    last = list(refused.values())[-1]
    full = all(isinstance(error, HopFailed) and error.code == "out_of_cache" for error in refused.values())
    return OutOfCache(str(last)) if full else last
