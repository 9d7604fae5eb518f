"""A model that is served, and a completion: from prompt ids to pieces of text. Knows nothing of HTTP or peers."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import dataclass
from typing import Literal, Protocol

from gateway.generation.detokenizer import Detokenizer
from gateway.generation.sampling import SamplingParams
from gateway.generation.stops import StopStrings
from gateway.generation.tokenizer import TextTokenizer

Finish = Literal["stop", "length"]


class TokenSource(Protocol):
    """What a completion needs of the engine."""

    def generate(
        self, prompt: list[int], params: SamplingParams, on_open: Callable[[], None] = ...
    ) -> AsyncGenerator[int, None]:
        """Token ids one by one: up to and with a stop id, else `params.max_tokens` of them.

        `on_open` is called when the swarm has room for it, which may take a while.
        Raises NoRoute, OutOfCache, HopFailed or DeadlinePassed. Closing it frees what it holds elsewhere.
        """
        ...


@dataclass(frozen=True, slots=True)
class ServedModel:
    """One model behind the API: its public id, Unix time since when it is served, and what makes text of it.

    `context_length` bounds prompt and completion together, in tokens; `end_ids` end a completion.
    """

    id: str
    created: int
    tokenizer: TextTokenizer
    engine: TokenSource
    context_length: int
    end_ids: frozenset[int]


@dataclass(frozen=True, slots=True)
class Piece:
    """A stretch of a completion's text, and the ids that came with it: the pieces' ids join to all that were made.

    `tokens` counts all ids so far, and only the last piece has a `finish`. It alone may have no text.
    """

    text: str
    ids: tuple[int, ...]
    tokens: int
    finish: Finish | None = None


async def complete(
    model: ServedModel,
    prompt: list[int],
    params: SamplingParams,
    stop: tuple[str, ...] = (),
    on_open: Callable[[], None] = lambda: None,
) -> AsyncGenerator[Piece, None]:
    """Pieces of the model's answer, the last with its finish reason. Raises what the engine raises.

    `on_open` is called when the swarm has room for it.
    """
    detokenizer, stops = Detokenizer(model.tokenizer.decode), StopStrings(stop)
    ids: list[int] = []  # since the last piece
    count, ended = 0, False
    async with aclosing(model.engine.generate(prompt, params, on_open)) as tokens:
        async for token in tokens:
            ids.append(token)
            count += 1
            ended = token in params.stop_ids
            text = stops.feed(detokenizer.flush() if ended else detokenizer.feed(token))
            if ended or stops.found:
                break
            if text:
                yield Piece(text, tuple(ids), count)
                ids = []
        else:
            text = stops.feed(detokenizer.flush())
    text += stops.flush()
    yield Piece(text, tuple(ids), count, "stop" if ended or stops.found else "length")
