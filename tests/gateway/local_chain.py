"""Chains over all blocks of a model in this process: a peer's own blocks and caches, without links."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import torch

from gateway.generation.chains import Inputs
from peer.model.blocks import Blocks
from shared.errors import HopFailed, OutOfCache
from shared.tensors import Encoded, decode_hidden, encode_hidden
from shared.types import BlockRange, PeerId
from shared.wire import Returns

PEER = PeerId("12D3KooLocal")


class LocalChain:
    """One session."""

    def __init__(self, chains: LocalChains, blocks: Blocks, reserve: int, thread: Executor) -> None:
        self._chains = chains
        self._blocks = blocks
        self._cache = blocks.new_cache(blocks.range, reserve)
        self._thread = thread
        self._rows: deque[asyncio.Future[torch.Tensor]] = deque()
        self._position = 0
        self.last_peer = PEER
        self.numerics = "here"

    @property
    def reserve(self) -> int:
        return self._cache.reserve

    def begin_round(self, position: int) -> None:
        self._position = position

    async def push(self, hidden: Encoded, returns: Returns) -> None:
        shape = hidden.specs[0].shape
        rows = decode_hidden(hidden, shape)
        loop = asyncio.get_running_loop()
        made = loop.run_in_executor(self._thread, self._blocks.forward, rows, self._cache, self._position)
        if returns != "none":
            self._rows.append(made)
        self._chains.pushed += shape[0]
        self._position += shape[0]

    async def output(self, width: int) -> Encoded:
        return encode_hidden((await self._rows.popleft())[-1:])

    async def rows(self, width: int) -> Encoded:
        return encode_hidden(await self._rows.popleft())

    def reject(self, error: HopFailed) -> None:
        raise error

    async def extend(self, reserve: int) -> bool:
        await asyncio.sleep(0)  # an answer never comes at once
        if not self._chains.extends(reserve):
            return False
        self._cache.grow(reserve)
        return True

    @asynccontextmanager
    async def fork(self, length: int, reserve: int, inputs: Inputs) -> AsyncGenerator[LocalChain, None]:
        fork = LocalChain(self._chains, self._blocks, reserve, self._thread)
        loop = asyncio.get_running_loop()
        with self._chains.counted():
            await self._chains.forks(length)
            await loop.run_in_executor(self._thread, fork._cache.take, self._cache, length)
            yield fork


class LocalChains:
    """Opens chains. `opened` lists (reserve, resuming) of each, `asked` the wishes for more room.

    `running` counts the chains that are open now, `pushed` the tokens that went into any. `grants` decides what becomes
    of each wish for more room, `forks` of each wish for a fork.
    """

    def __init__(self, directory: Path, blocks: int) -> None:
        """`directory` holds a model of so many blocks."""
        self._blocks = Blocks.load(
            directory, BlockRange(0, blocks), dtype=torch.float32, device=torch.device("cpu"), quantization="none"
        )
        self._thread = ThreadPoolExecutor(1)
        self.grants: Callable[[int], bool] = lambda reserve: True
        self.forks: Callable[[int], Awaitable[None]] = _at_once
        self.opened: list[tuple[int, bool]] = []
        self.asked: list[int] = []
        self.running = self.pushed = 0
        self.longest = 100_000

    @asynccontextmanager
    async def open(self, reserve: int, resuming: bool, inputs: Inputs) -> AsyncGenerator[LocalChain, None]:
        if reserve > self.longest:
            raise OutOfCache(f"sessions have at most {self.longest} tokens here")
        self.opened.append((reserve, resuming))
        with self.counted():
            yield LocalChain(self, self._blocks, reserve, self._thread)

    @contextmanager
    def counted(self) -> Generator[None]:
        """While this lasts, a chain is open."""
        self.running += 1
        try:
            yield
        finally:
            self.running -= 1

    def extends(self, reserve: int) -> bool:
        self.asked.append(reserve)
        return self.grants(reserve)


async def _at_once(length: int) -> None:
    """A fork is made."""
    await asyncio.sleep(0)
