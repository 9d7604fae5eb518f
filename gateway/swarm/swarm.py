"""Opening chains: wait for room, choose a route, reserve on its hops, try another one when a hop refuses."""

from __future__ import annotations

import asyncio
import functools
import logging
import random
import time
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass

from gateway.swarm.admission import Admission
from gateway.swarm.chain import Chain, Inputs, OnHops
from gateway.swarm.failover import LOOK_AGAIN_S, ChainFailover, OnRepair
from gateway.swarm.peers import ModelPeers, Peers
from gateway.swarm.relay import RelayedEdges
from gateway.swarm.routing import check_possible, choose_route, numerics_of
from gateway.swarm.spare_links import SpareLinks
from shared.errors import CacheFull, HopFailed, NoRoute, OutOfCache
from shared.pool import LinkPool
from shared.types import BlockRange, Fingerprint, PeerId

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
        wait_for_coverage_s: float,
        on_hops: OnHops = lambda peer, spent: None,
        on_repair: OnRepair = lambda repair: None,
    ) -> None:
        """A chain that breaks waits for up to `wait_for_coverage_s` until its blocks are served again."""
        self._me = me
        self._peers = peers
        self._pool = pool
        self._admission = admission
        self._wait_for_coverage_s = wait_for_coverage_s
        self._on_hops = on_hops
        self._on_repair = on_repair
        self._relayed = RelayedEdges()
        self._spare_links = SpareLinks(me, peers.controls, pool)

    def close(self) -> None:
        """Prepare nothing any more."""
        self._spare_links.close()

    @asynccontextmanager
    async def open_chain(
        self, model: Model, reserve: int, resuming: bool, inputs: Inputs
    ) -> AsyncGenerator[Chain, None]:
        """A chain with room for `reserve` tokens, once there is room; a stream that goes on (`resuming`) comes first.

        `inputs` gives again what was pushed, should the chain break.

        Raises NoRoute, OutOfCache, QueueFull, QueueTimeout, HopFailed.
        """
        chain = await self._open(model, reserve, resuming, inputs)
        try:
            yield chain
        finally:
            chain.close()

    async def _open(self, model: Model, reserve: int, resuming: bool, inputs: Inputs) -> Chain:
        deadline = time.monotonic() + (self._wait_for_coverage_s if resuming else 0.0)
        await self._until_possible(model, reserve, deadline)
        place = self._admission.arrive(model.fingerprint, resuming)
        refused: dict[PeerId, HopFailed] = {}
        failures: list[HopFailed] = []
        while len(failures) < ATTEMPTS or time.monotonic() < deadline:
            prepare = functools.partial(self._prepare, model, reserve, dict(refused))
            chain = await self._admission.passes(place, prepare)
            try:
                await chain.open(model.fingerprint, reserve, inputs)
            except HopFailed as error:
                chain.close()
                logger.warning("a session could not be opened: %s", error)
                self._peers.blame(error)
                chain.faults.judge(error, chain.route)
                if error.code == "out_of_cache":  # its room is known better now, and a Pong tells when it grows
                    place.sent_back = True
                else:
                    failures.append(error)
                    refused.update(chain.faults.excluded)
                await asyncio.sleep(random.uniform(*RETRY_S))
            except BaseException:
                chain.close()
                raise
            else:
                return chain
        raise failures[-1]

    async def _until_possible(self, model: Model, reserve: int, deadline: float) -> None:
        """Return when peers could hold the session, if they held no other. Raises NoRoute, OutOfCache."""
        while True:
            try:
                return check_possible(
                    self._peers.candidates(model.fingerprint), model.id, BlockRange(0, model.blocks), reserve
                )
            except NoRoute:
                if time.monotonic() >= deadline:
                    raise
            with suppress(TimeoutError):
                async with asyncio.timeout(LOOK_AGAIN_S):
                    await self._peers.changes.wait()

    def _prepare(self, model: Model, reserve: int, refused: Mapping[PeerId, HopFailed]) -> Chain:
        """A chain that is not opened yet, over peers that have not refused. Raises NoRoute, OutOfCache, CacheFull."""
        candidates = [each for each in self._peers.candidates(model.fingerprint) if each.peer not in refused]
        try:
            route = choose_route(candidates, model.id, BlockRange(0, model.blocks), reserve)
        except CacheFull:
            raise
        except (NoRoute, OutOfCache):
            if refused:
                raise list(refused.values())[-1] from None
            raise
        spares = ModelPeers(self._peers, model.fingerprint)
        failover = ChainFailover(
            model.id,
            model.blocks,
            spares,
            self._spare_links,
            self._wait_for_coverage_s,
            self._on_repair,
            functools.partial(self._admission.ahead, model.fingerprint),
        )
        return Chain(
            self._me, route, self._peers.controls, self._pool, failover, self._relayed, self._on_hops,
            numerics_of(route, candidates),
        )  # fmt: skip
