"""A served model for tests that need its tokenizer, and perhaps an engine."""

from __future__ import annotations

from typing import cast

from gateway.generation.completion import ServedModel, TokenSource
from gateway.generation.tokenizer import TextTokenizer


def served(tokenizer: TextTokenizer, engine: TokenSource | None = None) -> ServedModel:
    return ServedModel("tiny", 0, tokenizer, cast(TokenSource, engine), 512, tokenizer.end_ids)
