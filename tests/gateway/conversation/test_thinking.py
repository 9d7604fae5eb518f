"""What a model thinks, apart from what it says."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.conversation.answer import AnswerReader
from gateway.conversation.ask import Ask, Tool
from gateway.conversation.parts import Content, Part, Reasoning
from gateway.conversation.prepared import prepare
from gateway.conversation.thinking import KNOWN_MARKS, ThinkingReader
from tests.gateway.conversation import families
from tests.gateway.conversation.answers import calls, content, joined, reasoning
from tests.gateway.conversation.families import speaking
from tests.gateway.conversation.serving import served

USER = {"role": "user", "content": "2 + 2?"}


def read(pieces: list[str], inside: bool = False) -> list[Part]:
    reader = AnswerReader(ThinkingReader(KNOWN_MARKS[0], inside))
    parts = [part for piece in pieces for part in reader.feed(piece)]
    return joined([*parts, *reader.end("stop")[0]])


@pytest.mark.parametrize(
    ("text", "inside", "thought", "said"),
    [
        ("<think>\n2 and 2\n</think>\n\n4", False, "2 and 2", "4"),
        ("2 and 2\n</think>\n\n4", True, "2 and 2", "4"),
        ("<think>\n\n</think>\n\n4", False, "", "4"),
        ("<think>never ended ", False, "never ended", ""),
        (" 4 <think>", False, "", " 4 <think>"),
        ("<thin", False, "", "<thin"),
        ("a < b </thinking>\n</think>4 </think>", True, "a < b </thinking>", "4 </think>"),
    ],
)
def test_thinking_is_parted_from_the_answer(text: str, inside: bool, thought: str, said: str):
    for pieces in ([text], list(text)):
        parts = read(pieces, inside)
        assert (reasoning(parts), content(parts)) == (thought, said)


def test_thinking_comes_as_it_is_written():
    reader = AnswerReader(ThinkingReader(KNOWN_MARKS[0], inside=False))
    assert reader.feed("<think>\nTwo") == [Reasoning("Two")]
    assert reader.feed(" and two.\n</thi") == [Reasoning(" and two.")]
    assert reader.feed("nk>\n\nFour") == [Content("Four")]


@given(
    st.lists(st.sampled_from(["<think>", "</think>", "<", "/", "a", " ", "\n", " " * 150]), max_size=9), st.booleans()
)
def test_how_a_text_is_cut_changes_nothing(fragments: list[str], inside: bool):
    text = "".join(fragments)
    assert read(list(text), inside) == read([text], inside) == read(fragments, inside)


@pytest.mark.parametrize(
    ("template", "variables", "inside"),
    [
        (families.DEEPSEEK_R1, {}, True),
        (families.QWEN3, {}, False),
        (families.QWEN3, {"enable_thinking": False}, False),
    ],
)
async def test_a_prompt_that_opens_the_thinking_is_seen_to(template: str, variables: dict[str, bool], inside: bool):
    prepared = await prepare(served(speaking(template)), Ask([USER], template_kwargs=variables))
    parts = prepared.reader().feed("so</think>4")
    assert parts == ([Reasoning("so"), Content("4")] if inside else [Content("so</think>4")])


async def test_calls_come_after_the_thinking_and_not_from_it():
    call = '<tool_call>\n{"name": "f", "arguments": {}}\n</tool_call>'
    prepared = await prepare(served(speaking(families.QWEN3)), Ask([USER], [Tool("f", None, {})]))
    reader = prepared.reader()
    parts = reader.feed(f"<think>perhaps {call}?</think>\n\n{call}")
    assert reasoning(parts) == f"perhaps {call}?"
    assert calls(parts) == [("f", "{}")]
    assert content(parts) == ""
    assert reader.end("stop") == ([], "tool_calls")


async def test_an_answer_that_only_talks_of_calls_ends_as_any_other():
    reader = (await prepare(served(speaking(families.QWEN3)), Ask([USER], [Tool("f", None, {})]))).reader()
    assert reader.feed("I could call f. <tool") == [Content("I could call f.")]
    assert reader.end("length") == ([Content(" <tool")], "length")
