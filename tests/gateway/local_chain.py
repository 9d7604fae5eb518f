"""Chains over all blocks of a model in this process: a peer's own blocks and caches, without links."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Literal

import torch

from gateway.generation.engine import Inputs
from peer.model.blocks import Blocks
from shared.errors import HopFailed, OutOfCache
from shared.tensors import Encoded, decode_hidden, encode_hidden
from shared.types import BlockRange, PeerId

PEER = PeerId("12D3KooLocal")


class LocalChain:
    """One session. `grants` decides what becomes of each wish for more room."""

    def __init__(self, blocks: Blocks, reserve: int, thread: Executor, grants: Callable[[int], bool]) -> None:
        self._blocks = blocks
        self._cache = blocks.new_cache(blocks.range, reserve)
        self._thread = thread
        self._grants = grants
        self._last: asyncio.Future[torch.Tensor] | None = None
        self._position = 0
        self.last_peer = PEER

    @property
    def reserve(self) -> int:
        return self._cache.reserve

    def begin_round(self, position: int) -> None:
        self._position = position

    async def push(self, hidden: Encoded, returns: Literal["none", "last"]) -> None:
        shape = hidden.specs[0].shape
        rows = decode_hidden(hidden, shape)
        loop = asyncio.get_running_loop()
        self._last = loop.run_in_executor(self._thread, self._blocks.forward, rows, self._cache, self._position)
        self._position += shape[0]

    async def output(self, width: int) -> Encoded:
        assert self._last
        return encode_hidden((await self._last)[-1:])

    def reject(self, error: HopFailed) -> None:
        raise error

    async def extend(self, reserve: int) -> bool:
        await asyncio.sleep(0)  # an answer never comes at once
        if not self._grants(reserve):
            return False
        self._cache.grow(reserve)
        return True


class LocalChains:
    """Opens chains. `opened` lists (reserve, resuming) of each, `asked` the wishes for more room.

    `running` counts the chains that are open now.
    """

    def __init__(self, directory: Path, blocks: int) -> None:
        """`directory` holds a model of so many blocks."""
        self._blocks = Blocks.load(
            directory, BlockRange(0, blocks), dtype=torch.float32, device=torch.device("cpu"), quantization="none"
        )
        self._thread = ThreadPoolExecutor(1)
        self.grants: Callable[[int], bool] = lambda reserve: True
        self.opened: list[tuple[int, bool]] = []
        self.asked: list[int] = []
        self.running = 0
        self.longest = 100_000

    @asynccontextmanager
    async def open(self, reserve: int, resuming: bool, inputs: Inputs) -> AsyncGenerator[LocalChain, None]:
        if reserve > self.longest:
            raise OutOfCache(f"sessions have at most {self.longest} tokens here")
        self.opened.append((reserve, resuming))
        self.running += 1
        try:
            yield LocalChain(self._blocks, reserve, self._thread, self._extend)
        finally:
            self.running -= 1

    def _extend(self, reserve: int) -> bool:
        self.asked.append(reserve)
        return self.grants(reserve)
