"""One choice's text: what its tokens say, up to a stop string."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from gateway.generation.detokenizer import Detokenizer
from gateway.generation.stops import StopStrings


class AnswerText:
    """Makes text of tokens as they come.

    Stop strings are looked for in what the model writes: neither in nor across the name of a special token that is
    `shown`, which is for whoever reads its tool calls, nor, as in vLLM, in the text of the first `min_tokens`.
    """

    def __init__(
        self,
        decode: Callable[[Sequence[int]], str],
        stop: tuple[str, ...] = (),
        shown: frozenset[int] = frozenset(),
        min_tokens: int = 0,
    ) -> None:
        self._detokenizer = Detokenizer(decode)
        self._stops = StopStrings(stop)
        self._shown = shown
        self._unstoppable = min_tokens

    @property
    def found(self) -> bool:
        """Whether a stop string has come. There is no more text then."""
        return self._stops.found

    def feed(self, token: int) -> str:
        """The text that is certain with `token`, often empty."""
        self._unstoppable -= 1
        if token not in self._shown:
            return self._up_to_stop(self._detokenizer.feed(token))
        before = self._up_to_stop(self._detokenizer.flush())
        return before if self.found else before + self._stops.flush() + self._detokenizer.feed(token)

    def end(self) -> str:
        """What is still held back, up to a stop string; for the end of the answer."""
        return "" if self.found else self._up_to_stop(self._detokenizer.flush()) + self._stops.flush()

    def _up_to_stop(self, text: str) -> str:
        return text if self._unstoppable >= 0 else self._stops.feed(text)
