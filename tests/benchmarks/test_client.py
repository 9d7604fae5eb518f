"""Rates of an answer are those of its tokens, however they came."""

from __future__ import annotations

import pytest

from benchmarks.client import Answer


def test_the_rate_counts_the_tokens_after_the_first() -> None:
    answer = Answer(prompt_tokens=5, tokens=4, sent=10.0, arrivals=(11.0, 12.0, 13.0, 14.0), ended=14.0)
    assert answer.first_token_s == 1.0
    assert answer.rate == 1.0


def test_an_end_token_counts_although_it_has_no_text() -> None:
    answer = Answer(prompt_tokens=5, tokens=4, sent=10.0, arrivals=(11.0, 12.0, 13.0), ended=14.0)
    assert answer.rate == 1.0


def test_a_chunk_of_several_tokens_counts_as_several() -> None:
    answer = Answer(prompt_tokens=5, tokens=8, sent=0.0, arrivals=(1.0, 2.0, 3.0, 4.0), ended=4.0)
    assert answer.tokens_between(2.0, 4.0) == pytest.approx(4)
