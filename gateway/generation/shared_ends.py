"""The ends of a model as all its sessions use them at once: ready tokens share one product with the head.

Nothing of torch runs on the event loop. Knows nothing of chains.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from concurrent.futures import Executor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from gateway.generation.batches import Batches, OnBatch
from gateway.generation.ends import Ends
from gateway.generation.logprobs import with_logprobs
from gateway.generation.sampler import Sampler, draw_tokens
from gateway.generation.tokens import Token
from shared.errors import FrameError, HopFailed
from shared.tensors import Encoded, check_finite, decode_hidden, encode_hidden
from shared.types import PeerId

SCORED_ROWS = 32
"""Of a prompt, scored at once: with 131,072 tokens their logits take 17 MB."""


@dataclass(frozen=True, slots=True)
class Chunk:
    """Tokens of a prompt, at positions from `position`."""

    ids: list[int]
    position: int


@dataclass(frozen=True, slots=True)
class Turn:
    """A session's decode turn: the chain's last row, (1, hidden), from `source`, and what draws for `position`."""

    output: Encoded
    source: PeerId
    sampler: Sampler
    position: int


@dataclass(frozen=True, slots=True)
class Scoring:
    """Rows of a prompt from the `first` of those that a chain returned, and the ids that follow each."""

    output: Encoded
    source: PeerId
    first: int
    following: list[int]
    top: int


class Choice(NamedTuple):
    """A sampled token, and its embedding at its position, (1, hidden), ready to be pushed into the chain."""

    token: Token
    hidden: Encoded


class SharedEnds:
    """Embeds and chooses for many sessions on one thread, which it may share with other models."""

    def __init__(self, ends: Ends, thread: Executor, on_turn: OnBatch = lambda rows, seconds: None) -> None:
        """`on_turn` hears how many tokens shared one product with the head, and the seconds that their turn took."""
        self.hidden_size = ends.hidden_size
        self._ends = ends
        self._chunks = Batches(self._embed_chunks, thread)
        self._turns = Batches(self._choose, thread, on_turn, others=lambda: self._sessions > 1)
        self._scorings = Batches(self._score, thread, largest=1)
        self._sums = Batches(self._final_sums, thread, largest=1)
        self._sessions = 0

    @contextmanager
    def session(self) -> Generator[None]:
        """While this stands, a session will choose tokens now and then."""
        self._sessions += 1
        try:
            yield
        finally:
            self._sessions -= 1

    async def embed(self, ids: list[int], position: int) -> Encoded:
        """Token ids at positions from `position` to the first block's input, (tokens, hidden)."""
        return await self._chunks.do(Chunk(ids, position))

    async def choose(self, output: Encoded, source: PeerId, sampler: Sampler, position: int) -> Choice:
        """The token for `position` after the chain's last row, not told to the sampler.

        Raises HopFailed naming `source`, and what a grammar raises.
        """
        await sampler.ready()
        return await self._turns.do(Turn(output, source, sampler, position))

    async def score(self, output: Encoded, source: PeerId, following: list[int], top: int) -> list[Token]:
        """The ids that follow each of these rows, (rows, hidden), with their probabilities; the last may lack its own.

        A few rows at a time: scores of all would take much memory, and others wait for the thread. Raises HopFailed
        naming `source`.
        """
        scored: list[Token] = []
        for first in range(0, len(following), SCORED_ROWS):
            part = Scoring(output, source, first, following[first : first + SCORED_ROWS], top)
            scored += await self._scorings.do(part)
        return scored

    async def final_sum(self, output: Encoded, source: PeerId) -> npt.NDArray[np.float64]:
        """The sum of the final hidden states of these rows, (rows, hidden). Raises HopFailed naming `source`."""
        return await self._sums.do((output, source))

    def _embed_chunks(self, chunks: Sequence[Chunk]) -> list[Encoded]:
        ids = [token for chunk in chunks for token in chunk.ids]
        positions = [chunk.position + place for chunk in chunks for place in range(len(chunk.ids))]
        hidden = self._ends.embed_each(ids, positions)
        return [encode_hidden(rows) for rows in hidden.split([len(chunk.ids) for chunk in chunks])]

    def _choose(self, turns: Sequence[Turn]) -> list[Choice]:
        logits = self._ends.logits(torch.cat([self._rows(turn.output, turn.source, 1) for turn in turns]))
        for turn, best in zip(turns, logits.amax(dim=1), strict=True):
            check_finite(best, turn.source)  # finite hidden states may be so large that the norm or the head is not
        positions = [turn.position for turn in turns]
        tokens = draw_tokens(logits, [turn.sampler for turn in turns], positions)
        hidden = self._ends.embed_each([token.id for token in tokens], positions)
        return [Choice(token, encode_hidden(row)) for token, row in zip(tokens, hidden.split(1), strict=True)]

    def _score(self, scorings: Sequence[Scoring]) -> list[list[Token]]:
        return [self._scored(each) for each in scorings]

    def _scored(self, scoring: Scoring) -> list[Token]:
        rows = self._rows(scoring.output, scoring.source, scoring.output.specs[0].shape[0])
        logits = self._ends.logits(rows[scoring.first : scoring.first + len(scoring.following)])
        check_finite(logits.amax(dim=1), scoring.source)
        each = zip(scoring.following, logits.cpu().numpy(), strict=True)
        return [with_logprobs(token, row, scoring.top) for token, row in each]

    def _final_sums(self, outputs: Sequence[tuple[Encoded, PeerId]]) -> list[npt.NDArray[np.float64]]:
        return [self._final_sum(output, source) for output, source in outputs]

    def _final_sum(self, output: Encoded, source: PeerId) -> npt.NDArray[np.float64]:
        rows = self._rows(output, source, output.specs[0].shape[0])
        summed = self._ends.final(rows).sum(dim=0, dtype=torch.float64)
        check_finite(summed, source)
        return summed.cpu().numpy()

    def _rows(self, output: Encoded, source: PeerId, count: int) -> torch.Tensor:
        """(count, hidden) as it came from `source`. Raises HopFailed naming that."""
        try:
            hidden = decode_hidden(output, (count, self.hidden_size))
        except FrameError as error:
            raise HopFailed(source, "protocol", f"what {source} returned is malformed: {error}") from error
        check_finite(hidden, source)
        return hidden.to(self._ends.dtype)
