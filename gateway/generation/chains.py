"""What is needed of chains here: a session over all blocks of a model, wherever these are."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from typing import Protocol

from gateway.generation.reservation import Extendable
from gateway.generation.shared_ends import SharedEnds
from shared.errors import HopFailed
from shared.tensors import WIDEST_BYTES, Encoded
from shared.types import PeerId
from shared.wire import PAYLOAD_LIMIT, Returns

PREFILL_CHUNK = 256
"""Tokens of a prompt that go through the chain at once: hop 2 works on one chunk while hop 1 works on the next."""

CHAINS_LIMIT = 4
"""So many chains are lost, one after the other, without anything from any, before a text ends with the error."""

Inputs = Callable[[int, int], AsyncIterator[Encoded]]
"""The embeddings of positions [start, end), in order, in pieces that fit into frames."""


class Chain(Extendable, Protocol):
    """A session over all blocks of the model."""

    numerics: str
    """What computes it: the same for the same kinds of peers."""

    def begin_round(self, position: int) -> None:
        """What is pushed from now on starts at `position`."""
        ...

    @property
    def last_peer(self) -> PeerId:
        """Whose output comes."""
        ...

    async def push(self, hidden: Encoded, returns: Returns) -> None:
        """Hidden states (tokens, hidden) of the next positions, of which `returns` says what is to come back."""
        ...

    async def output(self, width: int) -> Encoded:
        """The round's last row, (1, width). Raises HopFailed, ChainLost."""
        ...

    async def rows(self, width: int) -> Encoded:
        """The next rows of a round that asks for all, (rows, width), in order. Raises HopFailed, ChainLost."""
        ...

    def reject(self, error: HopFailed) -> None:
        """What came last cannot be used, and is to come again."""
        ...

    def fork(self, length: int, reserve: int, inputs: Inputs) -> AbstractAsyncContextManager[Chain]:
        """A chain that begins with the first `length` tokens of this one, and room for `reserve`. Raises HopFailed."""
        ...


OpenChain = Callable[[int, bool, Inputs], AbstractAsyncContextManager[Chain]]
"""Opens a chain with room for so many tokens; True for a request that has begun and goes on, which waits for nobody.
A chain that breaks asks for what was pushed again."""


def inputs_of(ids: list[int], ends: SharedEnds) -> Inputs:
    """What goes into a chain for these ids; more may be added to them meanwhile."""
    chunk = chunk_of(ends)

    async def inputs(start: int, end: int) -> AsyncIterator[Encoded]:
        for first in range(start, end, chunk):
            yield await ends.embed(ids[first : min(first + chunk, end)], first)

    return inputs


def chunk_of(ends: SharedEnds) -> int:
    """Tokens in a piece of a prompt."""
    return max(1, min(PREFILL_CHUNK, PAYLOAD_LIMIT // (ends.hidden_size * WIDEST_BYTES)))
