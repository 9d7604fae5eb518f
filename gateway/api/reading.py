"""From the text of an answer's choices to their parts, while it comes."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncGenerator, Iterable, Sequence
from contextlib import aclosing
from dataclasses import dataclass

from gateway.conversation.parts import Content, Part, Reasoning
from gateway.conversation.prepared import AnswerFinish, Reader
from gateway.generation.completion import Piece
from gateway.generation.stops import StopStrings
from gateway.generation.tokens import Token


@dataclass(frozen=True, slots=True)
class Update:
    """What is new of one choice: parts, and the tokens that came, whose parts may follow later.

    Only a choice's last update has a `finish`; with it the last call may be `broken`: its arguments have no end.
    """

    choice: int
    parts: tuple[Part, ...]
    tokens: tuple[Token, ...]
    finish: AnswerFinish | None = None
    broken: bool = False


class Reading:
    """Reads all choices of one answer, each with its own reader.

    A `stop` string ends a choice where it stands in what the user is told. Thinking and calls may hold it: clients do
    not know the text that these are written in. Nor is it looked for in what comes with the first `min_tokens`.
    """

    def __init__(self, readers: Sequence[Reader], stop: tuple[str, ...] = (), min_tokens: int = 0) -> None:
        self._readers = readers
        self._told = [_Told(stop, min_tokens) for _ in readers]
        self._over: set[int] = set()

    def is_over(self, choice: int) -> bool:
        """No more of its text is wanted: the reader has all, or a stop string has come."""
        return choice in self._over

    async def updates(self, pieces: AsyncGenerator[Piece, None]) -> AsyncGenerator[Update, None]:
        """One for each piece, up to the end of each choice."""
        async with aclosing(pieces):
            async for piece in pieces:
                if not self.is_over(piece.choice):  # some may have been on their way still
                    yield self._update(piece)

    def _update(self, piece: Piece) -> Update:
        reader, told = self._readers[piece.choice], self._told[piece.choice]
        told.come(len(piece.tokens))
        parts = told.up_to_stop(reader.feed(piece.text))
        if not (piece.finish or reader.over or told.stopped):
            return Update(piece.choice, tuple(parts), piece.tokens)
        self._over.add(piece.choice)
        rest, finish = reader.end("stop" if told.stopped else piece.finish or "stop")
        parts += [*told.up_to_stop(rest), *told.rest()]
        if told.stopped and finish == "length":  # the stop string came with the very last of it
            finish = "stop"
        return Update(piece.choice, tuple(parts), piece.tokens, finish, reader.broken)


class _Told:
    """What the user is told of one choice, up to a stop string."""

    def __init__(self, stop: tuple[str, ...], min_tokens: int) -> None:
        self._stops = StopStrings(stop)
        self._unstoppable = min_tokens

    @property
    def stopped(self) -> bool:
        return self._stops.found

    def come(self, tokens: int) -> None:
        """So many tokens have been made since."""
        self._unstoppable -= tokens

    def up_to_stop(self, parts: Iterable[Part]) -> list[Part]:
        """The parts that may be given out: none from a stop string on."""
        given: list[Part] = []
        for part in parts:
            if self.stopped:
                break
            given += self._content(part) if isinstance(part, Content) else [*self.rest(), part]
        return given

    def rest(self) -> list[Part]:
        """What is held back since a stop string might begin with it."""
        return _as_content(self._stops.flush())

    def _content(self, part: Content) -> list[Part]:
        if self._unstoppable >= 0:
            return [part]
        return _as_content(self._stops.feed(part.text))


def _as_content(text: str) -> list[Part]:
    return [Content(text)] if text else []


class Tally:
    """How many tokens an answer has, of all choices, and how many of them are thinking.

    A piece of text counts as what it begins with, and the tokens that were held back before it with it: where thinking
    ends, the count is right to within a tag.
    """

    def __init__(self) -> None:
        self.made = self.reasoning = 0
        self._held: Counter[int] = Counter()

    def add(self, update: Update) -> None:
        self.made += len(update.tokens)
        self._held[update.choice] += len(update.tokens)
        if update.parts:
            held = self._held.pop(update.choice)
            self.reasoning += held if isinstance(update.parts[0], Reasoning) else 0
