"""Tokens to text, with stop strings."""

from __future__ import annotations

from functools import partial

from gateway.generation.answer_text import AnswerText
from gateway.generation.tokenizer import TextTokenizer
from tests.tiny_models import START_ID, byte_tokenizer

TOKENIZER = TextTokenizer(byte_tokenizer(), frozenset())
SHOWN = frozenset({START_ID})


def ids_of(text: str) -> list[int]:
    return byte_tokenizer()(text)["input_ids"]  # pyright: ignore[reportReturnType]


def read(ids: list[int], *stop: str, shown: frozenset[int] = SHOWN, min_tokens: int = 0) -> tuple[str, bool]:
    """The text, and whether a stop string ended it."""
    text = AnswerText(partial(TOKENIZER.decode, shown=shown), stop, min_tokens)
    said = ""
    for token in ids:
        said += text.feed(token)
        if text.found:
            break
    return said + text.end(), text.found


def test_a_special_token_that_is_not_shown_does_not_part_a_stop_string():
    ids = [*ids_of("so t"), START_ID, *ids_of("wo")]
    assert read(ids, "two", shown=frozenset()) == ("so ", True)


def test_bytes_that_are_no_character_before_a_special_token_are_replaced():
    assert read([*ids_of("é")[:1], START_ID]) == ("\ufffd<|im_start|>", False)


def test_a_stop_string_within_the_first_tokens_does_not_end_the_text():
    ids = ids_of("a.b.c.d")
    assert read(ids, ".") == ("a", True)
    assert read(ids, ".", min_tokens=2) == ("a.b", True)
    assert read(ids, ".", min_tokens=6) == ("a.b.c.d", False)
    assert read(ids, ".c", min_tokens=4) == ("a.b.c.d", False)
