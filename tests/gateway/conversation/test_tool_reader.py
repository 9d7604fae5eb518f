"""Calls of tools in what models write."""

from __future__ import annotations

import json
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.conversation.answer import AnswerReader
from gateway.conversation.parts import Content, Part, ToolCallArguments, ToolCallBegins
from gateway.conversation.tool_formats.formats import FORMATS
from gateway.conversation.tool_formats.reader import ToolReader, long_id, short_id
from tests.gateway.conversation.answers import calls, content, joined, numbered

TOOLS = frozenset({"weather", "time"})
PARIS = '{"city": "Paris"}'


def read(form: str, pieces: Sequence[str], most: int | None = None) -> list[Part]:
    reader = ToolReader(FORMATS[form], TOOLS, most, iter(numbered()).__next__)
    parts = [part for piece in pieces for part in reader.feed(piece)]
    return joined([*parts, *reader.end()])


@pytest.mark.parametrize(
    ("form", "text", "said"),
    [
        ("hermes", '<tool_call>\n{"name": "weather", "arguments": {"city": "Paris"}}\n</tool_call>', ""),
        ("hermes", 'Looking.\n<tool_call>{"arguments": {"city": "Paris"}, "name": "weather"}</tool_call>', "Looking."),
        ("hermes", '<tool_call>{"name": "weather", "arguments": "{\\"city\\": \\"Paris\\"}"}', ""),
        ("llama3", '{"name": "weather", "parameters": {"city": "Paris"}}', ""),
        ("llama3", '<|python_tag|>{"type": "function", "name": "weather", "parameters": {"city": "Paris"}}', ""),
        ("mistral", '[TOOL_CALLS] [{"name": "weather", "arguments": {"city": "Paris"}, "id": "a1b2c3d4e"}]', ""),
        ("mistral_named", '[TOOL_CALLS]weather[ARGS]{"city": "Paris"}', ""),
        ("mistral_named", 'Sure.[TOOL_CALLS]weather[CALL_ID]a1b2c3d4e[ARGS]{"city": "Paris"}', "Sure."),
        ("generic", '[{"name": "weather", "arguments": {"city": "Paris"}}]', ""),
        ("generic", 'I call:\n  {"name": "weather", "parameters": {"city": "Paris"}}', "I call:"),
    ],
)
def test_a_call_is_read_in_the_form_of_each_family(form: str, text: str, said: str):
    parts = read(form, [text])
    assert [(name, json.loads(arguments)) for name, arguments in calls(parts)] == [("weather", {"city": "Paris"})]
    assert content(parts) == said


@pytest.mark.parametrize(
    ("form", "text"),
    [
        (
            "hermes",
            '<tool_call>\n{"name": "weather", "arguments": {}}\n</tool_call>\n<tool_call>{"name": "time"}</tool_call>',
        ),
        ("llama3", '{"name": "weather", "parameters": {}}; {"name": "time", "parameters": {}}'),
        ("mistral", '[TOOL_CALLS][{"name": "weather", "arguments": {}}, {"name": "time", "arguments": {}}]'),
        ("mistral_named", "[TOOL_CALLS]weather[ARGS]{}[TOOL_CALLS]time[ARGS]{}"),
        ("generic", '[{"name": "weather", "arguments": {}}, {"name": "time", "arguments": {}}]'),
    ],
)
def test_several_calls_are_read_and_at_most_as_many_as_are_wanted(form: str, text: str):
    assert read(form, [text]) == [
        ToolCallBegins(0, "id0", "weather"),
        ToolCallArguments(0, "{}"),
        ToolCallBegins(1, "id1", "time"),
        ToolCallArguments(1, "{}"),
    ]
    assert calls(read(form, [text], most=1)) == [("weather", "{}")]


@pytest.mark.parametrize(
    ("form", "text"),
    [
        ("hermes", '<tool_call>{"name": "launch", "arguments": {}}</tool_call>'),
        ("hermes", '<tool_call>{"name": "weather", "arguments": 5}</tool_call>'),
        ("hermes", '<tool_call>{"name": "wea'),
        ("hermes", "<tool_call>weather\n</tool_call>"),
        ("hermes", "  <tool_"),
        ("llama3", '{"name": "weather"}'),
        ("llama3", '{"city": "Paris"}'),
        ("llama3", "<|python_tag|>search.call(query='x')"),
        ("llama3", 'so {"name": "weather", "parameters": {}}'),
        ("mistral", '[TOOL_CALLS] [{"name": "launch", "arguments": {}}]'),
        ("mistral_named", "[TOOL_CALLS]launch[ARGS]{}"),
        ("generic", '[1, 2]\n{"answer": {"name": "weather", "arguments": {}}}\n'),
    ],
)
def test_what_is_no_call_of_a_tool_is_given_out_as_it_stands(form: str, text: str):
    assert read(form, list(text)) == [Content(text)]


def test_a_call_begins_as_soon_as_it_is_certain_and_its_arguments_come_as_they_are_written():
    reader = ToolReader(FORMATS["hermes"], TOOLS)
    assert reader.feed('<tool_call>\n{"name": "weather", "argum') == []
    begun = reader.feed('ents": {"ci')
    assert [type(part) for part in begun] == [ToolCallBegins, ToolCallArguments]
    assert reader.feed('ty": "Pa') == [ToolCallArguments(0, 'ty": "Pa')]
    assert reader.feed('ris"}') == [ToolCallArguments(0, 'ris"}')]
    assert reader.feed("}\n</tool_call>") == reader.end() == []


def test_arguments_that_end_too_early_or_are_no_json_are_given_out_as_they_are():
    cut = read("hermes", ['<tool_call>{"name": "weather", "arguments": {"city": "Pa'])
    assert calls(cut) == [("weather", '{"city": "Pa')]
    wrong = read("hermes", ['<tool_call>{"name": "weather", "arguments": {"city": Paris}}</tool_call>'])
    assert calls(wrong) == [("weather", '{"city": Paris}')]


@pytest.mark.parametrize(
    ("form", "text", "broken"),
    [
        ("hermes", '<tool_call>{"name": "weather", "arguments": {"city": "Pa', True),
        ("hermes", '<tool_call>{"name": "weather", "arguments": {"city": "Paris"}', False),
        ("hermes", '<tool_call>{"name": "weather", "arguments": {}}\n</tool', False),
        ("mistral_named", '[TOOL_CALLS]weather[ARGS]{"city": ', True),
        ("mistral_named", "[TOOL_CALLS]weather[ARGS]{}", False),
    ],
)
def test_a_call_that_is_broken_off_within_its_arguments_is_no_whole_answer(form: str, text: str, broken: bool):
    reader = AnswerReader(tools=ToolReader(FORMATS[form], TOOLS))
    reader.feed(text)
    _, finish = reader.end("stop")
    assert (finish, reader.broken) == ("stop" if broken else "tool_calls", broken)


def test_an_answer_is_over_after_the_last_call_that_is_wanted():
    reader = ToolReader(FORMATS["hermes"], TOOLS, most=1)
    reader.feed('<tool_call>{"name": "weather", "arguments": {}')
    assert not reader.over
    assert reader.feed('}</tool_call>and more <tool_call>{"name": "time", "arguments": {}}') == []
    assert reader.over
    assert reader.end() == []


def test_content_around_a_call_keeps_the_space_between():
    parts = read("hermes", ['One.\n<tool_call>{"name": "time", "arguments": {}}</tool_call>\nTwo.\n'])
    assert content(parts) == "One.\nTwo."


def test_white_space_without_end_is_not_held_back_for_ever():
    reader = ToolReader(FORMATS["generic"], TOOLS)
    assert sum(len(content(reader.feed("\n"))) for _ in range(1000)) == 800


def test_ids_are_those_of_openai_and_those_of_mistral():
    assert len(long_id()) == len("call_") + 24
    assert len(short_id()) == 9
    assert short_id().isalnum()
    assert long_id() != long_id()


_FRAGMENTS = st.sampled_from(
    [
        *("<tool_call>", "</tool_call>", "[TOOL_CALLS]", "<|python_tag|>", "[ARGS]", "weather", "Hello", "\n", "  "),
        *("{", "}", "[", "]", ";", ", ", '"', "<", '{"name": "weather", ', '"arguments": ', '"name": "nothing"'),
        '{"name": "weather", "arguments": {"city": "}</tool_call>\\"", "days": [1, {}]}}',
        '{"parameters": {"zone": null}, "name": "time"}',
        '{"name": "time", "arguments": {"a": ]}',
        '{"answer": 42}',
        " " * 150,
    ]
)


@given(st.sampled_from(sorted(FORMATS)), st.lists(_FRAGMENTS, max_size=8), st.sampled_from([None, 1]), st.data())
def test_how_a_text_is_cut_changes_nothing(form: str, fragments: list[str], most: int | None, data: st.DataObject):
    text = "".join(fragments)
    cuts = sorted(data.draw(st.sets(st.integers(0, len(text)), max_size=12)))
    pieces = [text[start:end] for start, end in zip([0, *cuts], [*cuts, len(text)], strict=True)]
    whole = read(form, [text], most)
    assert read(form, pieces, most) == whole
    assert read(form, list(text), most) == whole
    if not calls(whole):
        assert content(whole) == text


_SCALARS = st.none() | st.booleans() | st.integers() | st.text()
_JSON = st.recursive(_SCALARS, lambda each: st.lists(each) | st.dictionaries(st.text(), each), max_leaves=8)


@settings(max_examples=30)
@given(st.sampled_from(sorted(FORMATS)), st.dictionaries(st.text(), _JSON), st.sampled_from([None, 2]), st.booleans())
def test_any_arguments_come_out_as_they_were_written(
    form: str, meant: dict[str, object], indent: int | None, raw: bool
):
    shape = FORMATS[form]
    arguments = json.dumps(meant, indent=indent, ensure_ascii=not raw)
    call = f"weather[ARGS]{arguments}" if shape.named else f'{{"name": "weather", "{shape.arguments}": {arguments}}}'
    listed = f"[{call}]" if shape.listed else call
    assert calls(read(form, list(f"{shape.opener}{listed}{shape.closer}"))) == [("weather", arguments)]
