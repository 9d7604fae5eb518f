"""One choice's text: what its tokens say, up to a stop string."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from gateway.generation.detokenizer import Detokenizer
from gateway.generation.stops import StopStrings


class AnswerText:
    """Makes text of tokens as they come.

    Stop strings are not looked for, as in vLLM, in the text of the first `min_tokens`.
    """

    def __init__(
        self,
        decode: Callable[[Sequence[int]], str],
        stop: tuple[str, ...] = (),
        min_tokens: int = 0,
    ) -> None:
        self._detokenizer = Detokenizer(decode)
        self._stops = StopStrings(stop)
        self._unstoppable = min_tokens

    @property
    def found(self) -> bool:
        """Whether a stop string has come. There is no more text then."""
        return self._stops.found

    def feed(self, token: int) -> str:
        """The text that is certain with `token`, often empty."""
        self._unstoppable -= 1
        return self._up_to_stop(self._detokenizer.feed(token))

    def end(self) -> str:
        """What is still held back, up to a stop string; for the end of the answer."""
        return "" if self.found else self._up_to_stop(self._detokenizer.flush()) + self._stops.flush()

    def _up_to_stop(self, text: str) -> str:
        return text if self._unstoppable >= 0 else self._stops.feed(text)
