"""Answers of gpt-oss: messages in channels."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.conversation.ask import Ask, JsonObject, Tool, ToolChoice
from gateway.conversation.harmony import HarmonyReader
from gateway.conversation.parts import Part, Reasoning
from gateway.conversation.prepared import prepare
from gateway.generation.completion import Finish, ServedModel
from tests.gateway.conversation import families
from tests.gateway.conversation.answers import calls, content, joined, numbered, reasoning
from tests.gateway.conversation.families import speaking
from tests.gateway.conversation.serving import served
from tests.tiny_models import END_ID

USER = {"role": "user", "content": "Weather?"}
STRICT = Tool(
    "weather", None, {"type": "object", "properties": {"x": {"type": "integer"}}, "required": ["x"]}, strict=True
)
THOUGHT = "<|channel|>analysis<|message|>Hm.<|end|><|start|>assistant"
FINAL = "<|channel|>final<|message|>Sunny."
CALL = '<|channel|>commentary to=functions.weather <|constrain|>json<|message|>{"x": 1}'


@pytest.fixture(scope="module")
def model() -> ServedModel:
    return served(speaking(families.HARMONY))


def read(pieces: list[str], most: int | None = None) -> list[Part]:
    reader = HarmonyReader({"weather"}, most, iter(numbered()).__next__)
    parts = [part for piece in pieces for part in reader.feed(piece)]
    return joined([*parts, *reader.end("stop")[0]])


@pytest.mark.parametrize(
    ("text", "thought", "said", "called"),
    [
        (f"{THOUGHT}{FINAL}<|return|>", "Hm.", "Sunny.", []),
        (f"{THOUGHT}{CALL}<|call|>", "Hm.", "", [("weather", '{"x": 1}')]),
        (" to=functions.weather<|channel|>commentary json<|message|>", "", "", [("weather", "{}")]),
        ("<|channel|>commentary to=functions.launch json<|message|>{}", "", "{}", []),
        ("<|channel|>commentary<|message|>I look.<|end|>" + CALL, "", "I look.", [("weather", '{"x": 1}')]),
        (FINAL + "<|cha", "", "Sunny.<|cha", []),
        ("Sunny.", "", "Sunny.", []),
    ],
)  # fmt: skip
def test_channels_are_thinking_content_and_calls(text: str, thought: str, said: str, called: list[tuple[str, str]]):
    for pieces in ([text], list(text)):
        parts = read(pieces)
        assert (reasoning(parts), content(parts), calls(parts)) == (thought, said, called)


@pytest.mark.parametrize(
    ("text", "finish", "ends"),
    [
        (CALL, "stop", ("tool_calls", False)),
        (CALL, "length", ("length", False)),
        (CALL[:-1], "stop", ("stop", True)),
        (CALL.partition("{")[0], "length", ("length", True)),
        (CALL.partition("{")[0], "stop", ("tool_calls", False)),
    ],
)
def test_a_call_that_is_broken_off_is_no_whole_answer(text: str, finish: Finish, ends: tuple[str, bool]):
    reader = HarmonyReader({"weather"}, None, iter(numbered()).__next__)
    reader.feed(text)
    assert (reader.end(finish)[1], reader.broken) == ends


_FRAGMENTS = st.sampled_from([THOUGHT, FINAL, CALL, "<|end|>", "<|call|>", "<|start|>", "<|message|>", "<|", "text"])


@given(st.lists(_FRAGMENTS, max_size=6), st.sampled_from([None, 1]))
def test_how_a_text_is_cut_changes_nothing(fragments: list[str], most: int | None):
    text = "".join(fragments)
    assert read(list(text), most) == read([text], most) == read(fragments, most)


@pytest.mark.parametrize(
    ("choice", "form", "kept", "broken"),
    [
        ("required", None, (CALL, THOUGHT + CALL), (FINAL, CALL.replace("1", "true"))),
        ("auto", None, (CALL, FINAL, THOUGHT + FINAL), (CALL.replace("1", "true"),)),
        ("auto", JsonObject(), (CALL, "<|channel|>final<|message|>{}"), (FINAL,)),
        ("none", JsonObject(), ("<|channel|>final<|message|>{}",), (FINAL, CALL)),
    ],
)
async def test_final_answers_and_calls_are_held_to_what_is_asked(
    model: ServedModel, choice: ToolChoice, form: JsonObject | None, kept: tuple[str, ...], broken: tuple[str, ...]
):
    grammar = (await prepare(model, Ask([USER], [STRICT], choice, format=form))).grammar
    assert grammar is not None
    for text in (*kept, *broken):
        matcher = grammar.matcher()
        ids = [*await model.tokenizer.encode_text(text), END_ID]
        taken = next((place for place, id in enumerate(ids) if not matcher.allowed()[id] or matcher.accept(id)), None)
        assert (taken is None) == (text in kept)


async def test_all_answers_are_read_so_even_without_tools(model: ServedModel):
    prepared = await prepare(model, Ask([USER]))
    assert prepared.reader().feed("<|channel|>analysis<|message|>Hm") == [Reasoning("Hm")]
    assert model.tokenizer.token_id("<|message|>") in prepared.shown
    assert model.tokenizer.token_id("<|call|>") in prepared.stop_ids
