"""The bytes of single tokens: together they are the text's."""

from __future__ import annotations

import pytest
from tokenizers import Tokenizer, decoders, models

from gateway.generation.token_bytes import TokenBytes
from gateway.generation.tokenizer import TextTokenizer
from tests.gateway.tokenizers import fast, llama_like, metaspace
from tests.tiny_models import END_ID, VOCAB_SIZE, byte_tokenizer

BYTES = TextTokenizer(byte_tokenizer(), frozenset())
LLAMA = TextTokenizer(fast(llama_like(), None), frozenset())


@pytest.mark.parametrize("text", ["Hello  wörld", "€😀\n\t", bytes(range(1, 128)).decode(), "日本語"])
async def test_bytes_of_byte_level_tokens_join_to_the_text(text: str):
    ids = await BYTES.encode_text(text)
    assert b"".join(map(BYTES.token_bytes, ids)) == text.encode()


def test_every_byte_has_its_token():
    assert sorted(BYTES.token_bytes(token) for token in range(256)) == [bytes([byte]) for byte in range(256)]


def test_a_special_token_shows_its_name_and_an_unknown_id_nothing():
    assert BYTES.token_text(END_ID) == "<|im_end|>"
    assert (BYTES.token_text(VOCAB_SIZE), BYTES.token_bytes(10**9)) == ("", b"")
    assert BYTES.vocab_size == VOCAB_SIZE


def test_half_a_character_is_its_bytes_and_a_replacement_as_text():
    (token,) = (each for each in range(256) if BYTES.token_bytes(each) == b"\xe2")
    assert BYTES.token_text(token) == "\ufffd"


def test_sentencepieces_spaces_and_bytes_are_told():
    vocabulary = llama_like().get_vocab()
    words = {word: LLAMA.token_bytes(vocabulary[word]) for word in ("▁Hello", "▁", "▁</b>", "a", "<0xE2>", "</s>")}
    assert list(words.values()) == [b" Hello", b" ", b" </b>", b"a", b"\xe2", b"</s>"]


def test_the_older_metaspace_is_a_space_too():
    tokenizer = TokenBytes(metaspace())
    assert [tokenizer(token) for token in range(6)] == [b"<unk>", b" Hello", b" world", b" ", b"a", b" </b>"]


def test_other_decoders_are_asked_for_the_token_alone():
    tokenizer = Tokenizer(models.WordPiece({"[UNK]": 0, "play": 1, "##ing": 2}, unk_token="[UNK]"))
    tokenizer.decoder = decoders.WordPiece()  # pyright: ignore[reportAttributeAccessIssue]
    assert TokenBytes(tokenizer)(1) == b"play"
