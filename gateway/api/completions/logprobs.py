"""Log probabilities in the shape of the completions API: four lists with an entry a token."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from typing import Any

from gateway.api.logprobs import finite
from gateway.generation.detokenizer import Detokenizer
from gateway.generation.tokenizer import TextTokenizer
from gateway.generation.tokens import Token


class LogprobShapes:
    """Makes such a shape of each stretch of one choice's text, as it comes.

    `text_offset` is where in the choice's text a token begins, in characters. A token that is part of a character has a
    name such as `bytes:\\xf0\\x9f`; with `by_id` all are named as in `token_id:5`, which is never the name of two.
    """

    def __init__(self, tokenizer: TextTokenizer, by_id: bool) -> None:
        self._tokenizer = tokenizer
        self._by_id = by_id
        self._length = 0

    def echo(self, text: str, tokens: Sequence[Token]) -> dict[str, Any]:
        """The prompt. What the tokenizer began it with, beside the user's own text, has no place in that."""
        offsets = list(self._offsets(tokens, self._tokenizer.special_ids))
        whole = len(self._tokenizer.decode([token.id for token in tokens], self._tokenizer.special_ids))
        return self._stretch(text, tokens, [max(0, offset - (whole - len(text))) for offset in offsets])

    def of(self, text: str, tokens: Sequence[Token]) -> dict[str, Any]:
        """The next stretch of what is made: its text, and the tokens that came with it."""
        return self._stretch(text, tokens, self._offsets(tokens, frozenset()))

    def _stretch(self, text: str, tokens: Sequence[Token], offsets: Iterable[int]) -> dict[str, Any]:
        start, self._length = self._length, self._length + len(text)
        return {
            "tokens": [self._name(token.id) for token in tokens],
            "token_logprobs": [None if token.logprob is None else finite(token.logprob) for token in tokens],
            "top_logprobs": [self._likeliest(token) for token in tokens],
            "text_offset": [min(start + offset, self._length) for offset in offsets],
        }

    def _offsets(self, tokens: Sequence[Token], shown: frozenset[int]) -> Iterator[int]:
        """How much text there is before each token."""
        detokenizer, length = Detokenizer(partial(self._tokenizer.decode, shown=shown)), 0
        for token in tokens:
            yield length
            length += len(detokenizer.feed(token.id))

    def _likeliest(self, token: Token) -> dict[str, float] | None:
        """By name; the token itself too, though it may not be among the likeliest. Of equal names the likelier."""
        if token.logprob is None:
            return None
        named: dict[str, float] = {}
        for each in token.top:
            named.setdefault(self._name(each.token), finite(each.logprob))
        named.setdefault(self._name(token.id), finite(token.logprob))
        return named

    def _name(self, token: int) -> str:
        if self._by_id:
            return f"token_id:{token}"
        spelled = self._tokenizer.token_bytes(token)
        try:
            return spelled.decode()
        except UnicodeDecodeError:
            return "bytes:" + "".join(f"\\x{byte:02x}" for byte in spelled)


def joined(shapes: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """One shape of those of all stretches."""
    return {name: [entry for shape in shapes for entry in shape[name]] for name in shapes[0]}
