"""The ends of a model as all its sessions use them at once: ready tokens share one product with the head.

Nothing of torch runs on the event loop. Knows nothing of chains.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from concurrent.futures import Executor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NamedTuple

import torch

from gateway.generation.batches import Batches, OnBatch
from gateway.generation.ends import Ends
from gateway.generation.sampling import SamplingParams, sample_rows
from shared.errors import FrameError, HopFailed
from shared.tensors import Encoded, check_finite, decode_hidden, encode_hidden
from shared.types import PeerId


@dataclass(frozen=True, slots=True)
class Chunk:
    """Tokens of a prompt, at positions from `position`."""

    ids: list[int]
    position: int


@dataclass(frozen=True, slots=True)
class Turn:
    """A session's decode turn: the chain's last row, (1, hidden), from `source`, and how `position` is sampled."""

    output: Encoded
    source: PeerId
    params: SamplingParams
    position: int


class Choice(NamedTuple):
    """A sampled token, and its embedding at its position, (1, hidden), ready to be pushed into the chain."""

    token: int
    hidden: Encoded


class SharedEnds:
    """Embeds and chooses for many sessions on one thread, which it may share with other models."""

    def __init__(self, ends: Ends, thread: Executor, on_turn: OnBatch = lambda rows, seconds: None) -> None:
        """`on_turn` hears how many tokens shared one product with the head, and the seconds that their turn took."""
        self.hidden_size = ends.hidden_size
        self._ends = ends
        self._chunks = Batches(self._embed_chunks, thread)
        self._turns = Batches(self._choose, thread, on_turn, others=lambda: self._sessions > 1)
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

    async def choose(self, output: Encoded, source: PeerId, params: SamplingParams, position: int) -> Choice:
        """The token for `position` after the chain's last row. Raises HopFailed naming `source`."""
        return await self._turns.do(Turn(output, source, params, position))

    def _embed_chunks(self, chunks: Sequence[Chunk]) -> list[Encoded]:
        ids = [token for chunk in chunks for token in chunk.ids]
        positions = [chunk.position + place for chunk in chunks for place in range(len(chunk.ids))]
        hidden = self._ends.embed_each(ids, positions)
        return [encode_hidden(rows) for rows in hidden.split([len(chunk.ids) for chunk in chunks])]

    def _choose(self, turns: Sequence[Turn]) -> list[Choice]:
        logits = self._ends.logits(torch.cat([self._row(turn) for turn in turns]))
        for turn, best in zip(turns, logits.amax(dim=1), strict=True):
            check_finite(best, turn.source)  # finite hidden states may be so large that the norm or the head is not
        tokens = sample_rows(logits, [turn.params for turn in turns], [turn.position for turn in turns])
        hidden = self._ends.embed_each(tokens, [turn.position for turn in turns])
        return [Choice(token, encode_hidden(row)) for token, row in zip(tokens, hidden.split(1), strict=True)]

    def _row(self, turn: Turn) -> torch.Tensor:
        try:
            hidden = decode_hidden(turn.output, (1, self.hidden_size))
        except FrameError as error:
            raise HopFailed(turn.source, "protocol", f"what {turn.source} returned is malformed: {error}") from error
        check_finite(hidden, turn.source)
        return hidden.to(self._ends.dtype)
