"""Chains in the test's own process: what they need where nothing is to be repaired, and where everything is."""

from __future__ import annotations

import asyncio
import copy
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import torch

from gateway.swarm.chain import Chain, Inputs
from gateway.swarm.control import Control
from gateway.swarm.failover import ChainFailover
from gateway.swarm.relay import RelayedEdges
from gateway.swarm.repair import Repair
from gateway.swarm.routing import Candidate
from gateway.swarm.spare_links import SpareLinks
from peer.model.blocks import Blocks
from peer.protocol import OUTBOX_BYTES
from shared.changes import Changes
from shared.errors import HopFailed
from shared.identity import Identity
from shared.pool import Dialler, LinkPool
from shared.tensors import Encoded, decode_hidden, encode_hidden
from shared.types import BlockRange, Fingerprint, PeerId, Span
from tests.loopback import FINGERPRINT, SWARM, Addresses, LocalPeer, Wire, control_link, load_blocks

HIDDEN, CHUNK = 64, 4
CACHE_TOKENS = 4000


class GivesUp:
    """Repairs nothing: what goes wrong is told."""

    async def recover(self, chain: Chain) -> None:
        raise chain.troubles[0]

    async def move(self, chain: Chain) -> None: ...

    def look_around(self, chain: Chain) -> None: ...

    def repaired(self, chain: Chain, repair: Repair) -> None: ...


async def no_inputs(start: int, end: int) -> AsyncIterator[Encoded]:
    """Of a chain that is never repaired."""
    raise AssertionError("nothing is to be repaired")
    yield


class TinyModel:
    """A model on disk, whose parts are loaded once for all tests."""

    def __init__(self, directory: Path, blocks: int) -> None:
        self.directory = directory
        self.blocks = BlockRange(0, blocks)
        self._loaded: dict[tuple[BlockRange, int], Blocks] = {}

    def part(self, blocks: BlockRange, copy: int = 0) -> Blocks:
        """The blocks of a range; peers that may run at one time need copies of their own."""
        if (blocks, copy) not in self._loaded:
            self._loaded[blocks, copy] = load_blocks(self.directory, blocks)
        return self._loaded[blocks, copy]

    def whole(self, hidden: torch.Tensor) -> torch.Tensor:
        """What all blocks in one place make of these hidden states; both (tokens, hidden)."""
        blocks = self.part(self.blocks)
        return blocks.forward(hidden, blocks.new_cache(self.blocks, len(hidden)), 0)


class Site:
    """A gateway and its peers, of which those that a chain does not use are its spares."""

    def __init__(self, model: TinyModel, stack: AsyncExitStack) -> None:
        self.model = model
        self.identity = Identity.create()
        self.addresses: Addresses = {}
        self.pool = LinkPool(Dialler(self.identity, SWARM, lambda peer: self.addresses.get(peer, [])))
        self.peers: list[LocalPeer] = []
        self.controls: dict[PeerId, Control] = {}
        self.changes = Changes()
        self.relayed = RelayedEdges()
        self.repairs: list[Repair] = []
        self.blamed: list[HopFailed] = []
        self._links: dict[PeerId, AsyncExitStack] = {}
        self._stack = stack
        self._dialler = Dialler(self.identity, SWARM, lambda peer: self.addresses.get(peer, []))

    async def add(
        self,
        blocks: str,
        *,
        reaches: Addresses | None = None,
        linked: bool = True,
        cache_tokens: int = CACHE_TOKENS,
        fingerprint: Fingerprint = FINGERPRINT,
        outbox_bytes: int = OUTBOX_BYTES,
    ) -> LocalPeer:
        """One more peer; `reaches` are the addresses that it knows, all if not said."""
        copy = sum(str(each.blocks) == blocks for each in self.peers)
        peer = LocalPeer(
            self.addresses if reaches is None else reaches,
            self.model.directory,
            blocks,
            cache_tokens,
            loaded=self.model.part(BlockRange.parse(blocks), copy),
            fingerprint=fingerprint,
            outbox_bytes=outbox_bytes,
        )
        await self._stack.enter_async_context(peer.serving(self.addresses))
        self.peers.append(peer)
        if linked:
            await self.link(peer)
        return peer

    async def wire_to(self, peer: LocalPeer) -> Wire:
        """A wire to this peer, on which nobody is yet."""
        return await self._stack.enter_async_context(Wire(peer.listener.port).laid())

    async def link(self, peer: LocalPeer) -> None:
        """Have a control link to it."""
        link = control_link(peer.peer, self._dialler, self.changes)
        self.controls[peer.peer] = await self._stack.enter_async_context(link)
        self.changes.notify()

    async def open(self, *hops: LocalPeer, reserve: int = 60, wait_s: float = 8.0) -> Text:
        """A session over these hops, or else over the first peers of all."""
        hops = hops or tuple(self.peers[: len(self.model.blocks)])
        return await self.open_route([Span(hop.peer, hop.blocks) for hop in hops], reserve, wait_s)

    async def open_route(self, route: Sequence[Span], reserve: int = 60, wait_s: float = 8.0) -> Text:
        """A session over this route."""
        text = Text(self, route, wait_s)
        try:
            await asyncio.wait_for(text.chain.open(FINGERPRINT, reserve, text.inputs), 20)
        except HopFailed:
            text.chain.close()
            raise
        return text

    async def fork(self, chain: Chain, length: int, reserve: int, inputs: Inputs) -> Chain:
        """A fork of a chain, which is closed at the latest when the test is over."""
        return await self._stack.enter_async_context(chain.fork(length, reserve, inputs))

    async def until(self, condition: Callable[[], object], within_s: float = 10) -> None:
        """Return when it is true, looking at each news that a control link brings, and each second."""
        async with asyncio.timeout(within_s):
            while not condition():
                await self.changes.wait()

    async def all_free(self) -> None:
        """Return when no peer that lives holds anything of any session, and each link that is left waits for use."""
        living = [peer for peer in self.peers if peer.lives]
        for peer in living:
            async with asyncio.timeout(10):
                await peer.protocol.emptied()
        await soon(lambda: all(_is_free(peer) for peer in living))
        await soon(lambda: not _unended_tasks())
        await soon(lambda: self._links_in_use(living) == 0)

    def _links_in_use(self, living: Sequence[LocalPeer]) -> int:
        """Data links to peers that live, without those that wait in a pool for the next session."""
        idle = sum(len(pool._timers) for pool in (self.pool, *(peer.pool for peer in living)))
        links = [link for peer in living for link in peer.listener.links if link.role == "data"]
        return len(links) - idle

    # What a failover asks

    def candidates(self) -> Sequence[Candidate]:
        return [self._candidate(peer) for peer in self.peers if self._usable(peer)]

    def blame(self, error: HopFailed) -> None:
        self.blamed.append(error)

    def ran(self, span: Span, forward_s: float) -> None: ...

    async def changed(self) -> None:
        await self.changes.wait()

    def _usable(self, peer: LocalPeer) -> bool:
        control = self.controls.get(peer.peer)
        pong = control.pong if control and control.connected else None
        return pong is not None and not pong.draining

    def _candidate(self, peer: LocalPeer) -> Candidate:
        room = self.controls[peer.peer].room_tokens
        return Candidate(peer.peer, peer.blocks, block_s=0.01, hop_s=0.001, room_tokens=room, longest_tokens=room)


class Text:
    """A session whose every row is compared with what all blocks in one place make."""

    def __init__(self, site: Site, route: Sequence[Span], wait_s: float) -> None:
        spare_links = SpareLinks(site.identity.peer, {}, site.pool)
        failover = ChainFailover("tests/Tiny", len(site.model.blocks), site, spare_links, wait_s, site.repairs.append)
        self.chain = Chain(site.identity.peer, tuple(route), site.controls, site.pool, failover, site.relayed)
        self.chunk = CHUNK
        self._site = site
        self._model = site.model
        self._rows = torch.empty(0, HIDDEN)

    async def fork(self, length: int | None = None, reserve: int = 60) -> Text:
        """Another session, which begins as a copy of this one, or of its first `length` tokens."""
        fork = copy.copy(self)
        fork._rows = self._rows[:length]
        fork.chain = await self._site.fork(self.chain, len(fork), reserve, fork.inputs)
        return fork

    @property
    def peers(self) -> list[PeerId]:
        """The hops that it uses now."""
        return [span.peer for span in self.chain.route]

    def __len__(self) -> int:
        return len(self._rows)

    async def inputs(self, start: int, end: int) -> AsyncIterator[Encoded]:
        for first in range(start, end, self.chunk):
            yield encode_hidden(self._rows[first : min(first + self.chunk, end)])

    async def push(self, tokens: int, position: int | None = None) -> None:
        """A round of so many new tokens, at the end or from `position` on, whose last row is asked for."""
        begin = len(self._rows) if position is None else position
        self._rows = torch.cat([self._rows[:begin], torch.randn(tokens, HIDDEN)])
        self.chain.begin_round(begin)
        async for hidden in self.inputs(begin, begin + tokens):
            begin += hidden.specs[0].shape[0]
            await self.chain.push(hidden, "last" if begin == len(self._rows) else "none")

    async def push_all(self, tokens: int) -> None:
        """A round of so many new tokens of which all rows are asked for."""
        begin = len(self._rows)
        self._rows = torch.cat([self._rows, torch.randn(tokens, HIDDEN)])
        self.chain.begin_round(begin)
        async for hidden in self.inputs(begin, begin + tokens):
            await self.chain.push(hidden, "all")

    async def take_rows(self, first: int, end: int) -> None:
        """The rows of positions [first, end) come, in order, each once, and are right."""
        expected = self._model.whole(self._rows)
        while first < end:
            encoded = await asyncio.wait_for(self.chain.rows(HIDDEN), 30)
            count = encoded.specs[0].shape[0]
            rows = decode_hidden(encoded, (count, HIDDEN))
            assert torch.allclose(rows, expected[first : first + count], atol=1e-5)
            first += count
        assert first == end

    async def output(self) -> None:
        """The row comes, and is right."""
        row = decode_hidden(await asyncio.wait_for(self.chain.output(HIDDEN), 30), (1, HIDDEN))
        assert torch.allclose(row, self._model.whole(self._rows)[-1:], atol=1e-5)

    async def round(self, tokens: int, position: int | None = None) -> None:
        await self.push(tokens, position)
        await self.output()

    async def decode(self, tokens: int) -> None:
        """As many rounds of one token."""
        for _ in range(tokens):
            await self.round(1)


async def soon(condition: Callable[[], object]) -> None:
    """Return when it is true of things that tell nobody when they change."""
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110 - it looks at what has no events
            await asyncio.sleep(0)


def _is_free(peer: LocalPeer) -> bool:
    protocol = peer.protocol
    budget, outboxes = protocol.sessions.budget, protocol.sessions.outboxes
    serves = any(protocol.accepted.serves(link) for link in peer.listener.links)
    return budget.free == budget.total and not outboxes.used and not serves


def _unended_tasks() -> set[str]:
    """Of tasks that sessions began."""
    tasks = asyncio.all_tasks() - {asyncio.current_task()}
    running = {getattr(task.get_coro(), "__qualname__", "") for task in tasks}
    return running - {"Control.run", "Scheduler.run", "Wire._pass", "Wire._connect"}


BLOCKS = 4
HOPS = range(BLOCKS)
"""Peers of one block each, in the tests of repairs."""


async def spare(site: Site, block: int, **about: Any) -> LocalPeer:
    """One more peer with this block."""
    return await site.add(f"{block}:{block + 1}", **about)
