"""A peer, whole: joins the swarm, loads its blocks, serves them, says goodbye."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import time

import click
import torch
from prometheus_client import CollectorRegistry

from peer.compute import Compute
from peer.crowding import Crowding, Usage
from peer.fitting import Fitting, look_at_memory
from peer.gathering import Gathering
from peer.loading import check_range, load_blocks, place
from peer.memory import outbox_bytes
from peer.metrics import PeerMetrics, holdings_of
from peer.metrics_page import MetricsPage
from peer.model.blocks import Blocks
from peer.model.cache import CacheBudget
from peer.names import default_name
from peer.pace import measure_pace
from peer.protocol import PeerProtocol
from peer.settings import PeerSettings
from peer.status import tell_status
from shared.addresses import data_addresses
from shared.checkpoint import Checkpoint
from shared.device import free_memory, whole_memory
from shared.handshake import Listener
from shared.identity import Identity
from shared.links import Traffic
from shared.network import Network
from shared.pool import Dialler, LinkPool
from shared.ports import take_port
from shared.program import Leaving, beside, forget_garbage, together
from shared.tensors import NAMES
from shared.types import BlockRange, Numerics

logger = logging.getLogger(__name__)

P2P_PORT = 31330
DATA_PORT = 31430
JOIN_S = 3.0
REAP_S = 1.0


async def run_peer(settings: PeerSettings, identity: Identity, checkpoint: Checkpoint, leaving: Leaving) -> None:
    """Serve until cancelled, or asked to leave, then say goodbye.

    Raises UsageError, CheckpointError, NotEnoughMemory.
    """
    if settings.threads:
        torch.set_num_threads(settings.threads)
    check_range(settings, checkpoint)
    compute = await beside(Compute.choose, settings, checkpoint)
    data = take_port(settings.listen, settings.data_port, DATA_PORT, "--data-port")
    data_port = data.getsockname()[1]
    scraped = _metrics_socket(settings)
    async with Network(identity, settings, default_port=P2P_PORT, data_port=data_port) as network:
        fitting = await beside(look_at_memory, settings, checkpoint, compute)
        compute = fitting.compute
        blocks = await _choose(fitting, network)
        node = PeerNode(settings, identity, checkpoint, network)
        await node.announce(compute, blocks, state="joining", cache_tokens=settings.cache_tokens or 0)
        logger.info("loading blocks %s of %s (%s)", blocks, checkpoint.id, checkpoint.fingerprint[:12])
        loaded = await beside(load_blocks, checkpoint, blocks, compute)
        budget = await beside(fitting.budget, loaded)
        await node.serve(compute, loaded, budget, data, scraped, leaving)


async def _choose(fitting: Fitting, network: Network) -> BlockRange:
    """The range to hold; without --blocks, after a look at what others hold."""
    if not fitting.settings.blocks and fitting.settings.join:
        await network.joined(JOIN_S)
    fingerprint = fitting.checkpoint.fingerprint
    held = [each.blocks for each in network.table if each.fingerprint == fingerprint and each.blocks]
    return await beside(place, fitting, held)


def _metrics_socket(settings: PeerSettings) -> socket.socket | None:
    """Where the counters are asked for, if anywhere. Raises UsageError for a port in use."""
    if settings.metrics_port is None:
        return None
    return take_port(settings.metrics_host, settings.metrics_port, settings.metrics_port, "--metrics-port")


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
            **news,
        )

    async def serve(
        self,
        compute: Compute,
        blocks: Blocks,
        budget: CacheBudget,
        listening: socket.socket,
        scraped: socket.socket | None,
        leaving: Leaving,
    ) -> None:
        """Take sessions until cancelled, or asked to leave; `scraped` listens for those who ask for the counters."""
        digests = await beside(self._checkpoint.digests, blocks.range)
        pace = await beside(measure_pace, blocks)
        registry, traffic = CollectorRegistry(), Traffic()
        metrics = PeerMetrics(registry, lambda: holdings_of(protocol.sessions), traffic, self._network.refusals)
        dialler = Dialler(
            self._identity,
            self._settings.swarm,
            lambda peer: data_addresses(self._network.table.get(peer)),
            traffic,
            self._network.refusals,
        )
        pool = LinkPool(dialler)
        protocol = PeerProtocol(
            self._identity.peer,
            self._checkpoint.fingerprint,
            blocks,
            budget,
            pool,
            pace,
            _gathering(blocks.device),
            metrics.forward,
            _outbox_bytes(self._settings, blocks, budget),
        )
        listener = Listener(self._identity, self._settings.swarm, protocol.on_link, traffic, self._network.refusals)
        await listener.start(listening)
        try:
            news = {"digests": digests, "tokens_per_s": 1 / pace.decode_s, "cache_tokens": budget.tokens}
            await self.announce(compute, blocks.range, state="online", **news)
            forget_garbage()
            await self._tell_ready(blocks.range)
            work = [protocol.scheduler.run(), _reap(protocol, listener), tell_status(metrics)]
            if scraped:
                work.append(MetricsPage(registry, scraped).run())
            with leaving.finishing() as asked:
                await together(*work, self._leave(protocol, asked))
        finally:
            await protocol.stop()
            pool.close()
            await listener.close()

    async def _leave(self, protocol: PeerProtocol, asked: asyncio.Event) -> None:
        """Once asked to, take no more sessions; return when those that are here have moved to others, or end.

        What has not gone after --drain-seconds is left to fail.
        """
        await asked.wait()
        protocol.drain()
        if not len(protocol.sessions):
            return
        seconds, here = self._settings.drain_seconds, len(protocol.sessions)
        logger.info(
            "leaving: %d sessions move to other peers first, within %g s; a second signal ends them", here, seconds
        )
        await self._network.announce(state="draining")
        try:
            async with asyncio.timeout(seconds):
                await protocol.emptied()
        except TimeoutError:
            logger.warning("%d sessions are still here after %g s: they are ended", len(protocol.sessions), seconds)

    async def _tell_ready(self, blocks: BlockRange) -> None:
        if self._settings.join:
            await self._network.joined(JOIN_S)
        click.echo(f"ready {self._identity.peer} {self._network.addresses[0]} {blocks}")


def _outbox_bytes(settings: PeerSettings, blocks: Blocks, budget: CacheBudget) -> int:
    """Main memory for outboxes: nobody needs more than one row for each token of the cache."""
    main, row_bytes = torch.device("cpu"), blocks.hidden_size * blocks.dtype.itemsize
    return outbox_bytes(free_memory(main), whole_memory(main), budget.tokens * row_bytes, settings.outbox_memory)


def _gathering(device: torch.device) -> Gathering:
    """Only a peer that computes on the cores waits for them."""
    if device.type != "cpu":
        return Gathering(lambda: False, 1)
    cores = os.cpu_count() or 1
    return Gathering(Crowding(Usage.now, cores), max(1, cores // torch.get_num_threads()))


async def _reap(protocol: PeerProtocol, listener: Listener) -> None:
    """Free what nobody needs any more, each second."""
    while True:
        await asyncio.sleep(REAP_S)
        protocol.reap()
        now = time.monotonic()
        for link in [link for link in listener.links if link.peer and protocol.idle(link, now)]:
            link.abort("it was silent for too long")
