"""What a model makes of every position of a text: probabilities and hidden states, without generating."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from gateway.generation.chains import CHAINS_LIMIT, Chain, OpenChain, chunk_of, inputs_of
from gateway.generation.shared_ends import SharedEnds
from gateway.generation.tokens import OnOpen, Token
from shared.errors import ChainLost, HopFailed
from shared.tensors import Encoded
from shared.types import PeerId

AHEAD_CHUNKS = 8
"""So many chunks of rows are on their way at most, and so in memory here at once."""

Made = TypeVar("Made")
Work = Callable[[Encoded, PeerId, int], Awaitable[Made]]
"""What is made of rows (rows, hidden) that a peer sent, of positions from a first one on. Raises HopFailed."""


class PromptRows:
    """Runs texts through chains and takes all rows, chunk by chunk, as they come."""

    def __init__(self, ends: SharedEnds, open_chain: OpenChain) -> None:
        self._ends = ends
        self._open_chain = open_chain
        self._ahead = AHEAD_CHUNKS * chunk_of(ends)

    async def score(self, ids: list[int], top: int, on_open: OnOpen) -> list[Token]:
        """The ids with the probabilities that each has after those before it, and the `top` likeliest there."""

        async def score(rows: Encoded, source: PeerId, first: int) -> list[Token]:
            following = ids[first + 1 : first + 1 + rows.specs[0].shape[0]]
            return await self._ends.score(rows, source, following, top)

        scored = await self._run(ids, score, on_open)
        return [Token(ids[0]), *(token for chunk in scored for token in chunk)]

    async def hidden_mean(self, ids: list[int], on_open: OnOpen) -> npt.NDArray[np.float32]:
        """(hidden,): the mean of the final hidden states of all positions."""
        sums = await self._run(ids, lambda rows, source, first: self._ends.final_sum(rows, source), on_open)
        return (np.sum(sums, axis=0) / len(ids)).astype(np.float32)

    async def _run(self, ids: list[int], work: Work[Made], on_open: OnOpen) -> list[Made]:
        """What `work` makes of each piece of the rows; of a chain that is lost nothing is kept."""
        for lost in range(CHAINS_LIMIT):
            try:
                async with self._open_chain(len(ids), lost > 0, inputs_of(ids, self._ends)) as chain:
                    if not lost:
                        on_open(chain.numerics)
                    return await self._over(chain, ids, work)
            except ChainLost:
                if lost + 1 == CHAINS_LIMIT:
                    raise
        raise AssertionError("the last loss is raised")

    async def _over(self, chain: Chain, ids: list[int], work: Work[Made]) -> list[Made]:
        made: list[Made] = []
        pushed = taken = 0
        chain.begin_round(0)
        async for hidden in inputs_of(ids, self._ends)(0, len(ids)):
            while pushed - taken >= self._ahead:
                taken += await self._take(chain, taken, work, made)
            await chain.push(hidden, "all")
            pushed += hidden.specs[0].shape[0]
        while taken < pushed:
            taken += await self._take(chain, taken, work, made)
        return made

    async def _take(self, chain: Chain, first: int, work: Work[Made], made: list[Made]) -> int:
        """Work on the next rows, which begin at position `first`; how many they are."""
        while True:
            rows = await chain.rows(self._ends.hidden_size)
            try:
                made.append(await work(rows, chain.last_peer, first))
            except HopFailed as error:
                chain.reject(error)
            else:
                return rows.specs[0].shape[0]
