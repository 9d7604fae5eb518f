"""Log probabilities of tokens as chat completions and responses show them."""

from __future__ import annotations

from collections.abc import Iterable

from gateway.api.shapes import Shape
from gateway.generation.tokenizer import TextTokenizer
from gateway.generation.tokens import Token

TOP_LIMIT = 20
IMPOSSIBLE = -9999.0
"""JSON has no infinity: OpenAI's logarithm of the probability of what cannot come."""


def token_logprobs(tokenizer: TextTokenizer, tokens: Iterable[Token]) -> list[Shape]:
    """One entry a token, with the likeliest at its place; `bytes` join to the text where a character has several."""
    return [
        {
            **_entry(tokenizer, token.id, token.logprob),
            "top_logprobs": [_entry(tokenizer, top.token, top.logprob) for top in token.top],
        }
        for token in tokens
    ]


def finite(logprob: float | None) -> float:
    """A logarithm that JSON can hold."""
    return IMPOSSIBLE if logprob is None else max(logprob, IMPOSSIBLE)


def _entry(tokenizer: TextTokenizer, token: int, logprob: float | None) -> Shape:
    return {
        "token": tokenizer.token_text(token),
        "logprob": finite(logprob),
        "bytes": list(tokenizer.token_bytes(token)),
    }
