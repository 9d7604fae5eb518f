"""The loop: token ids in, token ids out. Knows chains, ends and the sampler; knows nothing of HTTP, text or peers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Iterator
from concurrent.futures import Executor
from contextlib import AbstractAsyncContextManager
from typing import Literal, Protocol, TypeVar

from gateway.generation.ends import Ends
from gateway.generation.sampling import SamplingParams, sample
from shared.tensors import WIDEST_BYTES, Encoded, check_finite, decode_hidden, encode_hidden
from shared.types import PeerId
from shared.wire import PAYLOAD_LIMIT

PREFILL_CHUNK = 256
"""Tokens of a prompt that go through the chain at once: hop 2 works on one chunk while hop 1 works on the next."""

T = TypeVar("T")


class Chain(Protocol):
    """A session over all blocks of the model."""

    def begin_round(self, position: int) -> None: ...

    @property
    def last_peer(self) -> PeerId: ...

    async def push(self, hidden: Encoded, returns: Literal["none", "last"]) -> None: ...

    async def output(self, width: int) -> Encoded: ...


OpenChain = Callable[[int], AbstractAsyncContextManager[Chain]]
"""Opens a chain with room for so many tokens."""


class Engine:
    """Turns a prompt into a stream of token ids over a chain."""

    def __init__(self, ends: Ends, open_chain: OpenChain, torch_thread: Executor) -> None:
        self._ends = ends
        self._open_chain = open_chain
        self._torch_thread = torch_thread
        self._chunk = max(1, min(PREFILL_CHUNK, PAYLOAD_LIMIT // (ends.hidden_size * WIDEST_BYTES)))

    async def generate(self, prompt: list[int], params: SamplingParams) -> AsyncGenerator[int, None]:
        """Token ids one by one, the stop token included, at most `params.max_tokens`.

        Raises NoRoute, OutOfCache, HopFailed, DeadlinePassed. Closing the iterator frees the caches on all hops.
        """
        async with self._open_chain(len(prompt) + params.max_tokens) as chain:
            pending, position = prompt, 0
            for _ in range(params.max_tokens):
                hidden = await self._step(chain, pending, position)
                position += len(pending)
                token = await self._in_thread(self._choose, hidden, chain.last_peer, params, position)
                yield token
                if token in params.stop_ids:
                    return
                pending = [token]

    async def _step(self, chain: Chain, ids: list[int], position: int) -> Encoded:
        """The last row `(1, hidden)` after these ids at these positions, in chunks."""
        chain.begin_round(position)
        for start, chunk in self._chunks(ids):
            hidden = await self._in_thread(self._embed, chunk, position + start)
            await chain.push(hidden, "last" if start + len(chunk) == len(ids) else "none")
        return await chain.output(self._ends.hidden_size)

    def _chunks(self, ids: list[int]) -> Iterator[tuple[int, list[int]]]:
        return ((start, ids[start : start + self._chunk]) for start in range(0, len(ids), self._chunk))

    def _embed(self, ids: list[int], position: int) -> Encoded:
        return encode_hidden(self._ends.embed(ids, position))

    def _choose(self, output: Encoded, source: PeerId, params: SamplingParams, position: int) -> int:
        hidden = decode_hidden(output, (1, self._ends.hidden_size))
        check_finite(hidden, source)
        return sample(self._ends.logits(hidden)[0], params, position)

    async def _in_thread(self, function: Callable[..., T], *arguments: object) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._torch_thread, function, *arguments)
