"""Peers without a control plane, in the test's own process: real links, real blocks, addresses from a dictionary."""

from __future__ import annotations

import asyncio
import math
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import torch

from gateway.swarm.control import Control
from peer.gathering import Gathering
from peer.model.blocks import Blocks
from peer.model.cache import CacheBudget
from peer.pace import Pace
from peer.protocol import OUTBOX_BYTES, PeerProtocol
from peer.scheduler import Forward
from shared.changes import Changes
from shared.handshake import Listener
from shared.identity import Identity
from shared.pool import Dialler, LinkPool
from shared.types import BlockRange, Fingerprint, PeerId

ALONE = Gathering(lambda: False, at_once=1)

SWARM = "loopback"
PIECE_BYTES = 2**13  # that a wire passes on at once
FINGERPRINT = Fingerprint("f" * 64)

Addresses = dict[PeerId, list[tuple[str, int]]]


class LocalPeer:
    """What `peer start` runs, without the program around it.

    It counts the `tokens` that it has run, and can be made to do something after so many of them.
    """

    def __init__(
        self,
        addresses: Addresses,
        directory: Path,
        blocks: str,
        cache_tokens: int = 1000,
        *,
        loaded: Blocks | None = None,
        fingerprint: Fingerprint = FINGERPRINT,
        outbox_bytes: int = OUTBOX_BYTES,
    ) -> None:
        """`addresses` are those that it can dial; blocks that are `loaded` already need not be loaded again."""
        self.identity = Identity.create()
        self.blocks = BlockRange.parse(blocks)
        loaded = loaded or load_blocks(directory, self.blocks)
        self.pool = LinkPool(Dialler(self.identity, SWARM, lambda peer: addresses.get(peer, [])))
        budget = CacheBudget.of_tokens(cache_tokens, self.blocks, loaded.cache_bytes)
        pace = Pace(decode_s=0.1, token_s=0.01)
        self.protocol = PeerProtocol(
            self.peer, fingerprint, loaded, budget, self.pool, pace, ALONE, self._ran, outbox_bytes
        )
        self.listener = Listener(self.identity, SWARM, self.protocol.on_link)
        self.lives = True
        self.tokens = 0
        self.ran = Changes()
        self._then: tuple[float, Callable[[], None]] = (math.inf, lambda: None)
        self._running: asyncio.Task[None] | None = None

    @property
    def peer(self) -> PeerId:
        return self.identity.peer

    @asynccontextmanager
    async def serving(self, addresses: Addresses) -> AsyncIterator[LocalPeer]:
        """Listen and run until the context ends."""
        await self.listener.start(socket.create_server(("127.0.0.1", 0)))
        addresses[self.peer] = [("127.0.0.1", self.listener.port)]
        self._listed_in = addresses
        self.go_on()
        try:
            yield self
        finally:
            await self.protocol.stop()
            self.stand_still()
            self.pool.close()
            await self.listener.close()

    def after(self, tokens: int, act: Callable[[], None]) -> None:
        """Call `act` when a forward is over by which so many more tokens have run, once."""
        self._then = (self.tokens + tokens, act)

    def stand_still(self) -> None:
        """Run nothing: steps are taken and wait, and what is asked on control links is answered."""
        if self._running:
            self._running.cancel()

    def go_on(self) -> None:
        """Run what waits."""
        self._running = asyncio.create_task(self.protocol.scheduler.run())

    def die(self) -> None:
        """As if its process were killed: all its connections end at once, and nobody makes new ones."""
        self.lives = False
        self.stand_still()
        self._listed_in.pop(self.peer, None)
        for connecting in self.protocol._connecting.values():
            connecting.cancel()
        for session in self.protocol.sessions:
            if session.edge:
                session.edge.link.abort("the peer has died")
        for link in list(self.listener.links):
            link.abort("the peer has died")
        self.pool.close()

    def _ran(self, forward: Forward) -> None:
        self.tokens += forward.decode_tokens + forward.prefill_tokens
        self.ran.notify()
        tokens, act = self._then
        if self.tokens >= tokens:
            self._then = (math.inf, lambda: None)
            act()


def load_blocks(directory: Path, blocks: BlockRange) -> Blocks:
    """In float32 on the CPU."""
    return Blocks.load(directory, blocks, dtype=torch.float32, device=torch.device("cpu"), quantization="none")


class Wire:
    """What lies between diallers and a listener of this machine: while it holds, neither side hears of the other."""

    def __init__(self, port: int) -> None:
        """To the listener on `port`."""
        self._port = port
        self._passes = asyncio.Event()
        self._passes.set()
        self._bytes_per_s = math.inf
        self._ends: set[asyncio.Task[None]] = set()

    @asynccontextmanager
    async def laid(self) -> AsyncIterator[Wire]:
        """Its own `address` leads to the listener."""
        server = await asyncio.start_server(self._connect, "127.0.0.1", 0)
        self.address: tuple[str, int] = server.sockets[0].getsockname()
        try:
            yield self
        finally:
            server.close()
            for end in self._ends:
                end.cancel()
            await asyncio.gather(*self._ends, return_exceptions=True)

    def hold(self) -> None:
        """Keep everything, also that an end was closed."""
        self._passes.clear()

    def let_go(self) -> None:
        """Pass on what was kept."""
        self._passes.set()

    def slow_down(self, bytes_per_s: float) -> None:
        """From now on pass on so much in each direction of each connection."""
        self._bytes_per_s = bytes_per_s

    async def _connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection("127.0.0.1", self._port)
        for source, target in ((reader, back), (there, writer)):
            end = asyncio.create_task(self._pass(source, target))
            self._ends.add(end)
            end.add_done_callback(self._ends.discard)

    async def _pass(self, source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
        try:
            while data := await _read(source):
                await self._passes.wait()
                target.write(data)
                await asyncio.sleep(len(data) / self._bytes_per_s)
            await self._passes.wait()
        finally:
            target.close()


async def _read(source: asyncio.StreamReader) -> bytes:
    """Nothing when the connection has ended, however."""
    try:
        return await source.read(PIECE_BYTES)
    except ConnectionError:
        return b""


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
