"""Log probabilities in the completions API's shape, for a tokenizer that begins each text with a token of its own."""

from __future__ import annotations

import math

import pytest

from gateway.api.completions.logprobs import LogprobShapes, joined
from gateway.generation.tokenizer import TextTokenizer
from gateway.generation.tokens import Likelihood, Token
from tests.gateway.tokenizers import fast, llama_like

IDS = {word: number for number, word in enumerate(("▁Hello", "▁world", "▁", "a", "▁</b>", "<s>", "</s>"), 257)}
E_ACUTE = [0xC3 + 1, 0xA9 + 1]  # the ids of its two bytes


@pytest.fixture(scope="module")
def tokenizer() -> TextTokenizer:
    return TextTokenizer(fast(llama_like(), None), frozenset())


def test_the_tokenizers_first_token_takes_no_room_in_the_prompt(tokenizer: TextTokenizer) -> None:
    ids = [IDS["<s>"], IDS["▁Hello"], IDS["▁world"], *E_ACUTE, IDS["a"]]
    shape = LogprobShapes(tokenizer, by_id=False).echo("Hello worldéa", [Token(each) for each in ids])
    assert shape["tokens"] == ["<s>", " Hello", " world", "bytes:\\xc3", "bytes:\\xa9", "a"]
    assert shape["text_offset"] == [0, 0, 5, 11, 11, 12]


def test_what_is_made_follows_the_prompt(tokenizer: TextTokenizer) -> None:
    shapes = LogprobShapes(tokenizer, by_id=True)
    echo = shapes.echo("Hello", [Token(IDS["<s>"]), Token(IDS["▁Hello"], -0.5)])
    made = shapes.of("é", [Token(each, -1.0) for each in E_ACUTE])
    last = shapes.of("", [Token(IDS["</s>"], -2.0)])
    whole = joined([echo, made, last])
    assert whole["text_offset"] == [0, 0, 5, 5, 6]
    assert whole["token_logprobs"] == [None, -0.5, -1, -1, -2]
    assert whole["tokens"][-1] == f"token_id:{IDS['</s>']}"


def test_impossible_tokens_and_equal_names_stay_json_and_apart(tokenizer: TextTokenizer) -> None:
    byte_a = ord("a") + 1  # spelled as the word "a" is
    top = (Likelihood(byte_a, -0.1), Likelihood(IDS["a"], -0.2), Likelihood(IDS["▁"], -math.inf))
    token = Token(IDS["▁world"], -3.0, top)
    (named,) = LogprobShapes(tokenizer, by_id=False).of(" world", [token])["top_logprobs"]
    assert named == {"a": -0.1, " ": -9999, " world": -3}
    (numbered,) = LogprobShapes(tokenizer, by_id=True).of(" world", [token])["top_logprobs"]
    assert len(numbered) == 4
