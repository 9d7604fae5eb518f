"""Prompts for benchmarks have exactly as many tokens as asked for, and no two are the same."""

from __future__ import annotations

import pytest

from benchmarks.client import Message
from benchmarks.prompts import SYSTEM, Prompts


def counting(own: int, of_system: int = 0, a_word: int = 1):
    """A count of tokens: the template's own, fewer when a system message replaces its default one."""

    async def count(messages: list[Message]) -> int:
        words = sum(len(message["content"].split()) for message in messages)
        return own - of_system * (len(messages) > 1) + a_word * words

    return count


@pytest.mark.parametrize("tokens", [32, 512, 2048])
async def test_a_prompt_has_the_tokens_asked_for(tokens: int) -> None:
    count = counting(own=9)
    prompt = await Prompts(count).make(tokens)
    assert prompt.tokens == await count(prompt.messages) == tokens


async def test_no_two_prompts_begin_alike() -> None:
    prompts = Prompts(counting(own=9))
    made = [await prompts.make(32) for _ in range(20)]
    assert len({prompt.messages[-1]["content"][:40] for prompt in made}) > 15


async def test_a_short_system_message_makes_room_where_the_template_puts_in_a_long_one() -> None:
    prompt = await Prompts(counting(own=30, of_system=20)).make(32)
    assert prompt.messages[0] == SYSTEM
    assert prompt.tokens == 32


async def test_tokenizers_that_never_fit_get_the_nearest_number() -> None:
    prompt = await Prompts(counting(own=2, a_word=5)).make(513)
    assert abs(prompt.tokens - 513) <= 2


async def test_a_template_longer_than_what_is_asked_for_gets_its_shortest_prompt() -> None:
    prompt = await Prompts(counting(own=100)).make(32)
    assert 100 < prompt.tokens < 120
