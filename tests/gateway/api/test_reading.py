"""Answers read while they come: where stop strings end them, and where these are text like any other."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence

import pytest

from gateway.api.reading import Reading, Update
from gateway.conversation.answer import AnswerReader
from gateway.conversation.parts import Part
from gateway.conversation.thinking import KNOWN_MARKS, ThinkingReader
from gateway.conversation.tool_formats.formats import HERMES
from gateway.conversation.tool_formats.reader import ToolReader
from gateway.generation.completion import Finish, Piece
from gateway.generation.tokens import Token
from tests.gateway.conversation.answers import calls, content, reasoning

CALL = '<tool_call>\n{"name": "look", "arguments": {"x": "a\\n\\nb"}}\n</tool_call>'


async def pieces_of(texts: Sequence[str], finish: Finish) -> AsyncGenerator[Piece, None]:
    for number, text in enumerate(texts):
        yield Piece(text, (Token(number),))
    yield Piece("", (Token(len(texts)),), finish)


async def read(
    text: str | Sequence[str], *stop: str, finish: Finish = "stop", min_tokens: int = 0
) -> tuple[list[Part], Update, int]:
    """All parts, the last update, and how many there were: one a character, and one more if none ended it before."""
    reader = AnswerReader(ThinkingReader(KNOWN_MARKS[0], False), ToolReader(HERMES, {"look"}))
    reading = Reading([reader], stop, min_tokens)
    updates = [update async for update in reading.updates(pieces_of(text, finish))]
    assert reading.is_over(0)
    return [part for update in updates for part in update.parts], updates[-1], len(updates)


@pytest.mark.parametrize("stop", ["\n", "\n\n", "{", "look", "<tool_call>", "</think>", "Hm"])
async def test_a_stop_string_in_thinking_or_in_a_call_is_text_like_any_other(stop: str):
    parts, last, _ = await read(f"<think>\nHm.\n\nI see.\n</think>\n\n{CALL}", stop)
    assert (reasoning(parts), content(parts), calls(parts)) == ("Hm.\n\nI see.", "", [("look", '{"x": "a\\n\\nb"}')])
    assert last.finish == "tool_calls"


async def test_a_stop_string_in_what_the_user_is_told_ends_it_at_once():
    text = "<think>one two</think>one two three"
    parts, last, count = await read(text, "two", "never")
    assert (reasoning(parts), content(parts), last.finish) == ("one two", "one ", "stop")
    assert count == text.rindex("two") + 3
    assert not last.parts


async def test_nothing_is_given_out_from_a_stop_string_on():
    parts, last, count = await read(["one", f" two three\n{CALL}"], "two")
    assert (content(parts), calls(parts), count) == ("one ", [], 2)
    assert last.finish


async def test_a_stop_string_does_not_reach_across_a_call():
    parts, last, _ = await read(f"a{CALL}b", "ab")
    assert (content(parts), len(calls(parts)), last.finish) == ("ab", 1, "tool_calls")


@pytest.mark.parametrize(("text", "said", "finish"), [("a\n", "a", "stop"), ("a EN", "a EN", "length")])
async def test_what_was_held_back_is_looked_through_at_the_end(text: str, said: str, finish: Finish):
    parts, last, _ = await read(text, "\n", "END", finish="length")
    assert (content(parts), last.finish) == (said, finish)


async def test_a_stop_string_within_the_first_tokens_does_not_end_the_text():
    for least, said in ((0, "a"), (2, "a.b"), (6, "a.b.c.d")):
        assert content((await read("a.b.c.d", ".", min_tokens=least))[0]) == said
