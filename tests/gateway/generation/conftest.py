"""Grammars over a byte tokenizer, for the tests of what they take."""

from __future__ import annotations

import pytest

from gateway.generation.grammars import Grammars
from gateway.generation.token_trie import TokenTrie
from gateway.generation.tokenizer import TextTokenizer
from tests.tiny_models import END_ID, byte_tokenizer

END = frozenset({END_ID})


@pytest.fixture(scope="module")
def tokenizer() -> TextTokenizer:
    return TextTokenizer(byte_tokenizer(), END)


@pytest.fixture(scope="module")
def trie(tokenizer: TextTokenizer) -> TokenTrie:
    return TokenTrie(tokenizer, END)


@pytest.fixture
def grammars(tokenizer: TextTokenizer, trie: TokenTrie) -> Grammars:
    return Grammars(tokenizer, END, trie)
