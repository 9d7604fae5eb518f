"""Token ids to text, piece by piece, so that the pieces join to what decoding all at once would give."""

from __future__ import annotations

from collections.abc import Callable, Sequence

_REPLACEMENT = "\ufffd"
_HELD_TOKENS = 16  # a character has at most four bytes: more that do not end in a whole one will never make one


class Detokenizer:
    """Decodes a growing sequence. Text whose last character may still be incomplete is held back.

    Each new token is decoded after its predecessors and their text is cut off, for a token's text may depend on them:
    sentencepiece's decoders drop the space at the start of whatever they are given. (`DecodeStream` of `tokenizers`
    works so too, but raises on bytes that are no UTF-8, which models do produce, and cannot give up what it holds.)
    """

    def __init__(self, decode: Callable[[Sequence[int]], str]) -> None:
        self._decode = decode
        self._context: list[int] = []  # tokens whose text has been given out last
        self._held: list[int] = []

    def feed(self, token: int) -> str:
        """The text that `token` completes, often empty."""
        self._held.append(token)
        text = self._text()
        if text.endswith(_REPLACEMENT) and len(self._held) < _HELD_TOKENS:
            return ""
        if text:
            self._context, self._held = self._held, []
        return text

    def flush(self) -> str:
        """What is still held back, as it stands; for the end of a sequence."""
        text = self._text() if self._held else ""
        self._context, self._held = self._held, []
        return text

    def _text(self) -> str:
        return self._decode(self._context + self._held)[len(self._decode(self._context)) :]
