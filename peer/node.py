"""A peer, whole: joins the swarm, loads its blocks, serves them, says goodbye."""

from __future__ import annotations

import asyncio
import logging
import socket
import time

import click
import torch

from peer.compute import Compute
from peer.loading import check_memory, load_blocks, measure, place
from peer.model.blocks import Blocks
from peer.model.cache import CacheBudget
from peer.names import default_name
from peer.protocol import PeerProtocol
from peer.settings import PeerSettings
from shared.addresses import data_addresses
from shared.checkpoint import Checkpoint
from shared.handshake import Listener
from shared.identity import Identity
from shared.network import Network
from shared.pool import Dialler, LinkPool
from shared.ports import take_port
from shared.program import beside, together
from shared.tensors import NAMES
from shared.types import BlockRange, Numerics

logger = logging.getLogger(__name__)

P2P_PORT = 31330
DATA_PORT = 31430
JOIN_S = 3.0
REAP_S = 1.0


async def run_peer(settings: PeerSettings, identity: Identity, checkpoint: Checkpoint) -> None:
    """Serve until cancelled, then say goodbye. Raises UsageError, CheckpointError, NotEnoughMemory."""
    if settings.threads:
        torch.set_num_threads(settings.threads)
    compute = await beside(Compute.choose, settings, checkpoint)
    data = take_port(settings.listen, settings.data_port, DATA_PORT, "--data-port")
    data_port = data.getsockname()[1]
    async with Network(identity, settings, default_port=P2P_PORT, data_port=data_port) as network:
        blocks = await _choose(settings, checkpoint, compute, network)
        await beside(check_memory, settings, checkpoint, compute, blocks)
        node = PeerNode(settings, identity, checkpoint, network)
        await node.announce(compute, blocks, state="joining")
        logger.info("loading blocks %s of %s (%s)", blocks, checkpoint.id, checkpoint.fingerprint[:12])
        loaded = await beside(load_blocks, checkpoint, blocks, compute)
        await node.serve(compute, loaded, data)


async def _choose(settings: PeerSettings, checkpoint: Checkpoint, compute: Compute, network: Network) -> BlockRange:
    """The range to hold; without --blocks, after a look at what others hold."""
    if not settings.blocks and settings.join:
        await network.joined(JOIN_S)
    held = [each.blocks for each in network.table if each.fingerprint == checkpoint.fingerprint and each.blocks]
    return await beside(place, settings, checkpoint, compute, held)


class PeerNode:
    """What `peer start` runs once it knows its blocks."""

    def __init__(self, settings: PeerSettings, identity: Identity, checkpoint: Checkpoint, network: Network) -> None:
        self._settings = settings
        self._identity = identity
        self._checkpoint = checkpoint
        self._network = network

    async def announce(self, compute: Compute, blocks: BlockRange, **news: object) -> None:
        """Tell the swarm what this peer holds."""
        dtype = NAMES[compute.dtype]
        await self._network.announce(
            kind="peer",
            name=self._settings.name or default_name(self._identity.peer),
            model=self._checkpoint.id,
            fingerprint=self._checkpoint.fingerprint,
            blocks=blocks,
            model_blocks=self._checkpoint.blocks,
            numerics=Numerics(dtype=dtype, quantization=compute.quantization, wire=dtype),
            cache_tokens=self._settings.cache_tokens,
            **news,
        )

    async def serve(self, compute: Compute, blocks: Blocks, listening: socket.socket) -> None:
        """Take sessions until cancelled."""
        digests = await beside(self._checkpoint.digests, blocks.range)
        tokens_per_s = await beside(measure, blocks)
        dialler = Dialler(
            self._identity, self._settings.swarm, lambda peer: data_addresses(self._network.table.get(peer))
        )
        pool = LinkPool(dialler)
        budget = CacheBudget(self._settings.cache_tokens)
        protocol = PeerProtocol(self._identity.peer, self._checkpoint.fingerprint, blocks, budget, pool, tokens_per_s)
        listener = Listener(self._identity, self._settings.swarm, protocol.on_link)
        await listener.start(listening)
        try:
            await self.announce(compute, blocks.range, state="online", digests=digests, tokens_per_s=tokens_per_s)
            await self._tell_ready(blocks.range)
            await together(protocol.scheduler.run(), _reap(protocol, listener))
        finally:
            await protocol.stop()
            pool.close()
            await listener.close()

    async def _tell_ready(self, blocks: BlockRange) -> None:
        if self._settings.join:
            await self._network.joined(JOIN_S)
        click.echo(f"ready {self._identity.peer} {self._network.addresses[0]} {blocks}")


async def _reap(protocol: PeerProtocol, listener: Listener) -> None:
    """Free what nobody needs any more, each second."""
    while True:
        await asyncio.sleep(REAP_S)
        protocol.reap()
        now = time.monotonic()
        for link in [link for link in listener.links if link.peer and protocol.idle(link, now)]:
            link.abort("it was silent for too long")
