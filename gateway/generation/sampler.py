"""One choice's draws: what has come of it so far decides, with its parameters, how the next token is drawn.

What is done to a row of logits, in this order:

1. The grammar's mask, and the end tokens' while there are fewer than `min_tokens`; then `logit_bias`. They say what may
   come at all, and speak of the model's own logits.
2. Penalties: repetition, which scales logits and so has to see them before any temperature; frequency and presence.
   Up to here the best token may have become another one: greedy decoding takes the arg max of this.
3. Temperature, `top_k`, `top_p`, `min_p`: these leave the best token the best. Each counts what the one before has
   left, as in transformers; vLLM has the same order, but for `min_p`, which it applies before `top_k`. The ratio to the
   best probability, on which `min_p` stands (Nguyen et al., 2024), is the same there and here.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import TypeVar

import numpy as np
import torch

from gateway.generation.logprobs import with_logprobs
from gateway.generation.penalties import penalize, penalizes
from gateway.generation.sampling import Ids, Row, SamplingParams, draw
from gateway.generation.tokens import Token

Result = TypeVar("Result")


class Sampler:
    """Draws the tokens of one choice.

    A draw changes nothing, so that it may be tried twice; `accept` says which token has come. What a grammar works out
    for the next draw is worked out in the background, from `accept` on: `ready` waits for it. Leaving ends that.
    """

    def __init__(self, params: SamplingParams, prompt: Sequence[int]) -> None:
        """`prompt` is what the answer follows."""
        self.params = params
        self._prompt = tuple(prompt) if params.repetition_penalty != 1 else ()
        self._answer: Counter[int] = Counter()
        self._made = 0
        self._matcher = params.grammar.matcher() if params.grammar else None
        self._preparing: asyncio.Future[None] | None = None
        self._changes_rows = bool(self._matcher or params.logit_bias or penalizes(params))

    async def __aenter__(self) -> Sampler:
        if self._matcher:
            self._preparing = _in_background(self._matcher.prepare)
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._preparing:
            await asyncio.gather(self._preparing, return_exceptions=True)  # nobody draws any more

    async def ready(self) -> None:
        """Return when a token can be drawn. Raises what the grammar raises."""
        if self._preparing:
            await self._preparing

    def accept(self, token: int) -> None:
        """It has come, and the text goes on."""
        self._answer[token] += 1
        self._made += 1
        if self._matcher:
            self._preparing = _in_background(lambda: self._advance(token))

    def draw(self, row: Row, best: int, position: int) -> Token:
        """The token for `position` after a row of finite (or -inf) logits, (vocabulary,), whose arg max is `best`."""
        scores = row
        if self._changes_rows or self._made < self.params.min_tokens:
            scores = self._scores(row)
            best = int(scores.argmax())
        token = draw(scores, best, self.params, position)
        top = self.params.top_logprobs
        return Token(token) if top is None else with_logprobs(token, row, top)

    def _advance(self, token: int) -> None:
        assert self._matcher
        self._matcher.accept(token)
        self._matcher.prepare()

    def _scores(self, row: Row) -> Row:
        """What the draw chooses from: steps 1 and 2, on a copy."""
        scores = row.copy()
        self._forbid(scores)
        if self.params.logit_bias:
            ids, bias = self._bias
            scores[ids[ids < len(row)]] += bias[ids < len(row)]
        if penalizes(self.params):
            penalize(scores, self.params, self._prompt_ids, self._answer)
        return scores

    def _forbid(self, scores: Row) -> None:
        """Leave -inf to each token that may not come. Where a grammar allows ends alone, `min_tokens` gives way."""
        if self._matcher:
            forbidden = torch.from_numpy(~self._matcher.allowed())
            torch.from_numpy(scores).masked_fill_(forbidden, -torch.inf)  # ten times as fast as numpy's
            assert scores.max() > -np.inf, "a grammar allows no token that the model has"
        if self._made < self.params.min_tokens:
            ends = [each for each in self.params.stop_ids if each < len(scores)]
            ended = scores[ends]
            scores[ends] = -np.inf
            if scores.max() == -np.inf:
                scores[ends] = ended

    @cached_property
    def _prompt_ids(self) -> Ids:
        return np.unique(np.array(self._prompt, np.int64))

    @cached_property
    def _bias(self) -> tuple[Ids, Row]:
        bias = self.params.logit_bias
        return np.fromiter(bias, np.int64, len(bias)), np.fromiter(bias.values(), np.float32, len(bias))


def draw_tokens(logits: torch.Tensor, samplers: Sequence[Sampler], positions: Sequence[int]) -> list[Token]:
    """A token for each sampler's position, from finite (or -inf) float32 logits of shape (samplers, vocabulary)."""
    rows = logits.cpu().numpy()
    best = rows.argmax(axis=1).tolist()  # of all at once: the first of equals
    return [
        sampler.draw(row, first, position)
        for row, first, sampler, position in zip(rows, best, samplers, positions, strict=True)
    ]


def _in_background(work: Callable[[], Result]) -> asyncio.Future[Result]:
    return asyncio.get_running_loop().run_in_executor(None, work)
