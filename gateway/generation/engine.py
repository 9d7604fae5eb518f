"""The loop: token ids in, token ids out. Knows chains and ends; knows nothing of HTTP, text or peers."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, aclosing
from typing import Literal, Protocol

from gateway.generation.reservation import AHEAD_TOKENS, LOW_TOKENS, Extendable, Reservation
from gateway.generation.sampling import SamplingParams
from gateway.generation.shared_ends import SharedEnds
from shared.errors import ChainLost, HopFailed, OutOfCache
from shared.tensors import WIDEST_BYTES, Encoded
from shared.types import PeerId
from shared.wire import PAYLOAD_LIMIT

PREFILL_CHUNK = 256
"""Tokens of a prompt that go through the chain at once: hop 2 works on one chunk while hop 1 works on the next."""


class Chain(Extendable, Protocol):
    """A session over all blocks of the model."""

    def begin_round(self, position: int) -> None: ...

    @property
    def last_peer(self) -> PeerId: ...

    async def push(self, hidden: Encoded, returns: Literal["none", "last"]) -> None: ...

    async def output(self, width: int) -> Encoded: ...

    def reject(self, error: HopFailed) -> None: ...


Inputs = Callable[[int, int], AsyncIterator[Encoded]]
"""The embeddings of positions [start, end), in order, in pieces that fit into frames."""

OpenChain = Callable[[int, bool, Inputs], AbstractAsyncContextManager[Chain]]
"""Opens a chain with room for so many tokens; True for a request that has begun and goes on, which waits for nobody.
A chain that breaks asks for what was pushed again."""

CHAINS_LIMIT = 4
"""So many chains are lost, one after the other, without a token from any, before a text ends with the error."""


class Engine:
    """Turns a prompt into a stream of token ids over a chain; when that has no more room or is lost, over another."""

    def __init__(
        self, ends: SharedEnds, open_chain: OpenChain, on_step: Callable[[float], None] = lambda seconds: None
    ) -> None:
        """`on_step` hears how long a decode step was in the chain."""
        self._ends = ends
        self._open_chain = open_chain
        self._on_step = on_step
        self._chunk = max(1, min(PREFILL_CHUNK, PAYLOAD_LIMIT // (ends.hidden_size * WIDEST_BYTES)))

    async def generate(
        self, prompt: list[int], params: SamplingParams, on_open: Callable[[], None] = lambda: None
    ) -> AsyncGenerator[int, None]:
        """Token ids one by one, the stop token included, at most `params.max_tokens`.

        Raises NoRoute, OutOfCache, HopFailed, ChainLost. Closing the iterator frees the caches on all hops.
        """
        ids, limit, ahead = list(prompt), len(prompt) + params.max_tokens, AHEAD_TOKENS
        begun, lost = False, 0
        while len(ids) == len(prompt) or not _ends(ids, params, limit):
            try:
                async with self._open_chain(min(limit, len(ids) + ahead), begun, self._inputs(ids)) as chain:
                    begun = True
                    on_open()
                    async with aclosing(self._tokens(chain, ids, params, limit)) as tokens:
                        async for token in tokens:
                            lost = 0
                            yield token
            except ChainLost:
                lost += 1
                if lost == CHAINS_LIMIT:
                    raise
            except OutOfCache:
                if len(ids) == len(prompt) or lost:
                    raise
                return  # even idle, no peers could hold a longer text
            ahead = LOW_TOKENS

    async def _tokens(
        self, chain: Chain, ids: list[int], params: SamplingParams, limit: int
    ) -> AsyncGenerator[int, None]:
        """Tokens after `ids`, which they are added to, until the text ends or the chain holds no more of it."""
        await self._prefill(chain, ids)
        async with Reservation(chain, limit) as room:
            with self._ends.session():
                goes_on, pushed_at = True, None
                while goes_on:
                    token, hidden = await self._choose(chain, pushed_at, params, len(ids))
                    ids.append(token)
                    goes_on = not _ends(ids, params, limit) and await room.holds(len(ids))
                    if goes_on:  # before the token is told: that takes time in which the chain can work
                        pushed_at = await self._step(chain, hidden, len(ids) - 1)
                    yield token

    def _inputs(self, ids: list[int]) -> Inputs:
        """What goes into a chain for these ids; more may be added to them meanwhile."""

        async def inputs(start: int, end: int) -> AsyncIterator[Encoded]:
            for first in range(start, end, self._chunk):
                yield await self._ends.embed(ids[first : min(first + self._chunk, end)], first)

        return inputs

    async def _prefill(self, chain: Chain, ids: list[int]) -> None:
        """Send these ids into an empty chain, in chunks."""
        chain.begin_round(0)
        left = len(ids)
        async for hidden in self._inputs(ids)(0, left):
            left -= hidden.specs[0].shape[0]
            await chain.push(hidden, "none" if left else "last")

    async def _choose(
        self, chain: Chain, pushed_at: float | None, params: SamplingParams, position: int
    ) -> tuple[int, Encoded]:
        """The next token and its embedding, of what the chain makes; a decode step was pushed at `pushed_at`.

        A row that cannot be decoded is the fault of the peer that sent it: the chain makes it again without that one.
        """
        while True:
            output = await chain.output(self._ends.hidden_size)
            if pushed_at is not None:
                self._on_step(time.perf_counter() - pushed_at)
            try:
                return await self._ends.choose(output, chain.last_peer, params, position)
            except HopFailed as error:
                chain.reject(error)

    async def _step(self, chain: Chain, hidden: Encoded, position: int) -> float:
        """Send one token into the chain, as a round of its own; when that was."""
        pushed_at = time.perf_counter()
        chain.begin_round(position)
        await chain.push(hidden, "last")
        return pushed_at


def _ends(ids: list[int], params: SamplingParams, limit: int) -> bool:
    """True when the newest token is the text's last."""
    return ids[-1] in params.stop_ids or len(ids) == limit
