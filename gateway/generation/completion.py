"""A model that is served, and a completion: from prompt ids to pieces of text. Knows nothing of HTTP or peers."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from functools import partial
from typing import Literal, Protocol

import numpy as np
import numpy.typing as npt

from gateway.generation.answer_text import AnswerText
from gateway.generation.grammars import Grammars
from gateway.generation.merged import merged
from gateway.generation.sampling import SamplingParams
from gateway.generation.token_trie import TokenTrie
from gateway.generation.tokenizer import TextTokenizer
from gateway.generation.tokens import OnOpen, Token

Finish = Literal["stop", "length"]


class TokenSource(Protocol):
    """What a completion needs of the engine."""

    def generate_each(
        self, prompt: list[int], choices: Sequence[SamplingParams], on_open: OnOpen = ...
    ) -> Sequence[AsyncGenerator[Token, None]]:
        """The tokens of each choice, one by one: up to and with a stop id, else `max_tokens` of them.

        The choices share one prefill of the prompt: all are to be read at the same time. They
        raise NoRoute, OutOfCache, HopFailed or DeadlinePassed; closing one frees what it holds elsewhere.
        """
        ...

    async def score(self, ids: list[int], top: int, on_open: OnOpen = ...) -> list[Token]:
        """These ids, each with the logarithm of its probability after those before it, None for the first.

        With each go the `top` likeliest at its place. Raises what generating raises.
        """
        ...

    async def hidden_mean(self, ids: list[int], on_open: OnOpen = ...) -> npt.NDArray[np.float32]:
        """(hidden,): the mean over all positions of the hidden states after the final norm. Raises as `score` does."""
        ...


@dataclass(frozen=True, slots=True)
class ServedModel:
    """One model behind the API: its public id, Unix time since when it is served, and what makes text of it.

    `context_length` bounds prompt and completion together, in tokens; `end_ids` end a completion. `fingerprint` stands
    for the model's files and the numerics of its ends. Its `grammars` make a `token_trie` if none is given.
    """

    id: str
    created: int
    tokenizer: TextTokenizer
    engine: TokenSource
    context_length: int
    end_ids: frozenset[int]
    fingerprint: str = ""
    hidden_size: int = 0
    token_trie: TokenTrie | None = None
    grammars: Grammars = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "grammars", Grammars(self.tokenizer, self.end_ids, self.token_trie))


@dataclass(frozen=True, slots=True)
class Piece:
    """A stretch of a choice's text, and the tokens that came with it: those of all pieces are all that were made.

    Only a choice's last piece has a `finish`. It alone may have no text.
    """

    text: str
    tokens: tuple[Token, ...]
    finish: Finish | None = None
    choice: int = 0

    @property
    def ids(self) -> tuple[int, ...]:
        return tuple(token.id for token in self.tokens)


def complete(
    model: ServedModel,
    prompt: list[int],
    choices: Sequence[SamplingParams],
    stop: tuple[str, ...] = (),
    shown: frozenset[int] = frozenset(),
    on_open: OnOpen = lambda numerics: None,
    is_over: Callable[[int], bool] = lambda choice: False,
) -> AsyncGenerator[Piece, None]:
    """Pieces of all choices as they come, the last of each with its finish reason. Raises what the engine raises.

    `shown` are special tokens that have a text; other special tokens have none. `on_open` is called when the swarm has
    room for it. A choice that `is_over`, asked after each of its pieces, ends there, without a finish reason.
    """
    sources = model.engine.generate_each(prompt, choices, on_open)
    decode = partial(model.tokenizer.decode, shown=shown)
    return merged(
        [
            _pieces(source, params.stop_ids, AnswerText(decode, stop, params.min_tokens), place, is_over)
            for place, (source, params) in enumerate(zip(sources, choices, strict=True))
        ]
    )


async def _pieces(
    source: AsyncGenerator[Token, None],
    stop_ids: frozenset[int],
    text: AnswerText,
    choice: int,
    is_over: Callable[[int], bool],
) -> AsyncGenerator[Piece, None]:
    held: list[Token] = []  # since the last piece
    ended = False
    async with aclosing(source) as tokens:
        async for token in tokens:
            held.append(token)
            ended = token.id in stop_ids
            said = "" if ended else text.feed(token.id)
            if ended or text.found:
                break
            if said:
                yield Piece(said, tuple(held), choice=choice)
                held = []
                if is_over(choice):
                    return
        else:
            said = ""
    said += text.end()
    yield Piece(said, tuple(held), "stop" if ended or text.found else "length", choice)
