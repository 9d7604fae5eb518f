"""The loop: token ids in, token ids out. Knows chains and ends; knows nothing of HTTP, text or peers."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing

import numpy as np
import numpy.typing as npt

from gateway.generation.chains import CHAINS_LIMIT, Chain, OpenChain, inputs_of
from gateway.generation.prompt_rows import PromptRows
from gateway.generation.reservation import AHEAD_TOKENS, LOW_TOKENS, Reservation
from gateway.generation.sampler import Sampler
from gateway.generation.sampling import SamplingParams
from gateway.generation.shared_ends import Choice, SharedEnds
from gateway.generation.shared_prefill import LastRow, SharedPrefill, Start
from gateway.generation.tokens import OnOpen, Token
from shared.errors import ChainLost, HopFailed, OutOfCache
from shared.tensors import Encoded


class Engine:
    """Turns a prompt into a stream of token ids over a chain; when that has no more room or is lost, over another."""

    def __init__(
        self, ends: SharedEnds, open_chain: OpenChain, on_step: Callable[[float], None] = lambda seconds: None
    ) -> None:
        """`on_step` hears how long a decode step was in the chain."""
        self._ends = ends
        self._open_chain = open_chain
        self._on_step = on_step
        self._rows = PromptRows(ends, open_chain)

    def generate_each(
        self, prompt: list[int], choices: Sequence[SamplingParams], on_open: OnOpen = lambda numerics: None
    ) -> Sequence[AsyncGenerator[Token, None]]:
        """The tokens of each choice, one by one, the stop token included, at most its `max_tokens`.

        Those that are read at the same time share one prefill. They raise NoRoute, OutOfCache, HopFailed, ChainLost;
        closing one frees its caches on all hops.
        """
        prefill = SharedPrefill(len(prompt), self._open_chain, on_open)
        return [self._choice(prompt, params, prefill) for params in choices]

    def generate(
        self, prompt: list[int], params: SamplingParams, on_open: OnOpen = lambda numerics: None
    ) -> AsyncGenerator[Token, None]:
        """The tokens of one choice."""
        return self.generate_each(prompt, [params], on_open)[0]

    async def score(self, ids: list[int], top: int, on_open: OnOpen = lambda numerics: None) -> list[Token]:
        """These ids with their log probabilities, None for the first, and the `top` likeliest at the place of each.

        Raises NoRoute, OutOfCache, HopFailed, ChainLost.
        """
        return await self._rows.score(ids, top, on_open)

    async def hidden_mean(self, ids: list[int], on_open: OnOpen = lambda numerics: None) -> npt.NDArray[np.float32]:
        """(hidden,): the mean over all positions of the hidden states after the final norm. Raises as `score`."""
        return await self._rows.hidden_mean(ids, on_open)

    async def _choice(
        self, prompt: list[int], params: SamplingParams, prefill: SharedPrefill
    ) -> AsyncGenerator[Token, None]:
        async with Sampler(params, prompt) as sampler, aclosing(self._over_chains(prompt, sampler, prefill)) as tokens:
            async for token in tokens:
                yield token

    async def _over_chains(
        self, prompt: list[int], sampler: Sampler, prefill: SharedPrefill
    ) -> AsyncGenerator[Token, None]:
        """The text's tokens, over one chain or several, one after the other."""
        ids, limit, ahead = list(prompt), len(prompt) + sampler.params.max_tokens, AHEAD_TOKENS
        inputs, lost = inputs_of(ids, self._ends), 0
        while len(ids) == len(prompt) or not _ends(ids, sampler.params, limit):
            begin = prefill.start if len(ids) == len(prompt) else prefill.resume
            try:
                async with (
                    begin(min(limit, len(ids) + ahead), inputs) as start,
                    aclosing(self._tokens(start, ids, sampler, limit)) as tokens,
                ):
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

    async def _tokens(self, start: Start, ids: list[int], sampler: Sampler, limit: int) -> AsyncGenerator[Token, None]:
        """Tokens after `ids`, which they are added to, until the text ends or the chain holds no more of it."""
        chain = start.chain
        if not start.row:
            await self._prefill(chain, ids)
        async with Reservation(chain, limit) as room:
            with self._ends.session():
                choice = await self._first(start, sampler, len(ids))
                while await _goes_on(choice.token, ids, sampler, limit, room):
                    pushed_at = await self._step(chain, choice.hidden, len(ids) - 1)
                    yield choice.token  # which takes time, in which the chain works
                    choice = await self._choose(chain, sampler, len(ids), pushed_at)
                yield choice.token

    async def _prefill(self, chain: Chain, ids: list[int]) -> None:
        """Send these ids into an empty chain, in chunks."""
        chain.begin_round(0)
        left = len(ids)
        async for hidden in inputs_of(ids, self._ends)(0, left):
            left -= hidden.specs[0].shape[0]
            await chain.push(hidden, "none" if left else "last")

    async def _first(self, start: Start, sampler: Sampler, position: int) -> Choice:
        """The token after the prompt, whoever has run that."""
        if start.row:
            return await self._ends.choose(start.row.output, start.row.source, sampler, position)
        return await self._choose(start.chain, sampler, position, on_row=start.share)

    async def _choose(
        self,
        chain: Chain,
        sampler: Sampler,
        position: int,
        pushed_at: float | None = None,
        on_row: Callable[[LastRow], None] = lambda row: None,
    ) -> Choice:
        """The next token and its embedding, of what the chain makes; a decode step was pushed at `pushed_at`.

        A row that cannot be decoded is the fault of the peer that sent it: the chain makes it again without that one.
        """
        while True:
            output = await chain.output(self._ends.hidden_size)
            if pushed_at is not None:
                self._on_step(time.perf_counter() - pushed_at)
            source = chain.last_peer
            try:
                choice = await self._ends.choose(output, source, sampler, position)
            except HopFailed as error:
                chain.reject(error)
            else:
                on_row(LastRow(output, source))
                return choice

    async def _step(self, chain: Chain, hidden: Encoded, position: int) -> float:
        """Send one token into the chain, as a round of its own; when that was."""
        pushed_at = time.perf_counter()
        chain.begin_round(position)
        await chain.push(hidden, "last")
        return pushed_at


async def _goes_on(token: Token, ids: list[int], sampler: Sampler, limit: int, room: Reservation) -> bool:
    """Add a token to `ids`; False when the text ends with it, or the chain holds no more."""
    ids.append(token.id)
    if _ends(ids, sampler.params, limit):
        return False
    sampler.accept(token.id)
    return await room.holds(len(ids))


def _ends(ids: list[int], params: SamplingParams, limit: int) -> bool:
    """True when the newest token is the text's last."""
    return ids[-1] in params.stop_ids or len(ids) == limit
