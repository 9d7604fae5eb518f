"""Peers without a control plane, in the test's own process: real links, real blocks, addresses from a dictionary."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import torch

from gateway.swarm.control import Control
from peer.gathering import Gathering
from peer.model.blocks import Blocks
from peer.model.cache import CacheBudget
from peer.pace import Pace
from peer.protocol import PeerProtocol
from shared.changes import Changes
from shared.handshake import Listener
from shared.identity import Identity
from shared.pool import Dialler, LinkPool
from shared.types import BlockRange, Fingerprint, PeerId

ALONE = Gathering(lambda: False, at_once=1)

SWARM = "loopback"
FINGERPRINT = Fingerprint("f" * 64)

Addresses = dict[PeerId, list[tuple[str, int]]]


class LocalPeer:
    """What `peer start` runs, without the program around it."""

    def __init__(self, addresses: Addresses, directory: Path, blocks: str, cache_tokens: int = 1000) -> None:
        self.identity = Identity.create()
        self.blocks = BlockRange.parse(blocks)
        loaded = Blocks.load(
            directory, self.blocks, dtype=torch.float32, device=torch.device("cpu"), quantization="none"
        )
        self.pool = LinkPool(Dialler(self.identity, SWARM, lambda peer: addresses.get(peer, [])))
        budget = CacheBudget.of_tokens(cache_tokens, self.blocks, loaded.cache_bytes)
        self.protocol = PeerProtocol(
            self.identity.peer, FINGERPRINT, loaded, budget, self.pool, Pace(decode_s=0.1, token_s=0.01), ALONE
        )
        self.listener = Listener(self.identity, SWARM, self.protocol.on_link)

    @asynccontextmanager
    async def serving(self, addresses: Addresses) -> AsyncIterator[LocalPeer]:
        """Listen and run until the context ends."""
        await self.listener.start(socket.create_server(("127.0.0.1", 0)))
        addresses[self.identity.peer] = [("127.0.0.1", self.listener.port)]
        running = asyncio.create_task(self.protocol.scheduler.run())
        try:
            yield self
        finally:
            await self.protocol.stop()
            running.cancel()
            self.pool.close()
            await self.listener.close()


@asynccontextmanager
async def control_link(peer: PeerId, dialler: Dialler, changes: Changes) -> AsyncIterator[Control]:
    """A gateway's control link that has been answered once; `changes` tells of each news on it."""
    control = Control(peer, dialler, on_change=changes.notify, on_dead=changes.notify)
    running = asyncio.create_task(control.run())
    async with asyncio.timeout(10):
        while not control.connected:
            await changes.wait()
    try:
        yield control
    finally:
        running.cancel()
        control.close()
