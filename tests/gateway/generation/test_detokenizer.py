"""Ids to text in pieces."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.generation.detokenizer import Detokenizer
from tests.gateway.tokenizers import llama_like, metaspace
from tests.tiny_models import byte_tokenizer

Decode = Callable[[Sequence[int]], str]
BYTES = byte_tokenizer().backend_tokenizer
LLAMA = llama_like()
METASPACE = metaspace()


def pieces(decode: Decode, ids: list[int]) -> list[str]:
    detokenizer = Detokenizer(decode)
    return [*(detokenizer.feed(token) for token in ids), detokenizer.flush()]


def ids_of(tokenizer, *tokens: str | bytes) -> list[int]:
    """Ids of words by name, and of bytes one by one."""
    names = [[token] if isinstance(token, str) else [f"<0x{byte:02X}>" for byte in token] for token in tokens]
    return [tokenizer.token_to_id(name) for group in names for name in group]


@pytest.mark.parametrize(
    "text", ["plain", "  two leading spaces", "a😀b", "naïve café", "日本語 и русский", "🏳️‍🌈👩‍👩‍👧", ""]
)
def test_characters_split_over_byte_tokens_come_whole(text: str):
    parts = pieces(BYTES.decode, BYTES.encode(text).ids)
    assert "".join(parts) == text
    assert not any("\ufffd" in part for part in parts)


def test_words_come_as_soon_as_they_are_whole():
    assert pieces(BYTES.decode, BYTES.encode("h€i").ids) == ["h", "", "", "€", "i", ""]


@pytest.mark.parametrize("tokenizer", [LLAMA, METASPACE])
def test_sentencepiece_words_keep_their_spaces(tokenizer):
    ids = ids_of(tokenizer, "▁Hello", "▁world", "▁", "▁", "▁world", "a")
    assert pieces(tokenizer.decode, ids) == ["Hello", " world", " ", " ", " world", "a", ""]


def test_byte_fallback_characters_come_whole_and_keep_the_next_space():
    ids = ids_of(LLAMA, "▁Hello", "😀€".encode(), "▁world")
    assert pieces(LLAMA.decode, ids) == ["Hello", "", "", "", "😀", "", "", "€", " world", ""]


def test_a_special_token_between_words_takes_no_space():
    ids = ids_of(LLAMA, "▁Hello", "</s>", "▁world")
    assert "".join(pieces(LLAMA.decode, ids)) == "Hello world"


@pytest.mark.parametrize("tail", [b"\xff", b"\xf0\x9f", b"\xe2\x82"])
def test_bytes_that_are_no_text_neither_raise_nor_get_lost(tail: bytes):
    ids = ids_of(LLAMA, "▁Hello", "€".encode(), tail, "a", "▁world", tail)
    text = "".join(pieces(LLAMA.decode, ids))
    assert text.startswith("Hello€\ufffd")
    assert "a world\ufffd" in text


def test_endless_bytes_that_are_no_text_are_given_out_in_time():
    parts = pieces(LLAMA.decode, ids_of(LLAMA, b"\xff" * 100))
    assert max(len(part) for part in parts) <= 16
    assert "".join(parts) == "\ufffd" * 100


@settings(max_examples=300, deadline=None)
@given(st.text(max_size=40))
def test_any_text_in_bytes_joins_to_itself(text: str):
    assert "".join(pieces(BYTES.decode, BYTES.encode(text).ids)) == BYTES.decode(BYTES.encode(text).ids)


@settings(max_examples=300, deadline=None)
@given(
    st.lists(
        st.one_of(st.sampled_from([w.encode() for w in ("é", "a", "€", "😀", " b")]), st.binary(max_size=3)), max_size=6
    )
)
def test_random_bytes_join_to_what_decoding_at_once_gives(chunks: list[bytes]):
    alphabet = {BYTES.id_to_token(i): i for i in range(256)}
    byte_ids = [alphabet[_symbol(byte)] for byte in b"".join(chunks)]
    assert "".join(pieces(BYTES.decode, byte_ids)) == BYTES.decode(byte_ids)


def _symbol(byte: int) -> str:
    """A byte's letter in byte-level BPE's alphabet: itself where that can be seen, else one from U+0100 on."""
    seen = [*range(33, 127), *range(161, 173), *range(174, 256)]
    unseen = [b for b in range(256) if b not in seen]
    return chr(byte) if byte in seen else chr(256 + unseen.index(byte))
