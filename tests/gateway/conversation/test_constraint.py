"""Answers that are held to calls of tools and to formats."""

from __future__ import annotations

import json

import jsonschema
import pytest

from gateway.conversation.ask import Ask, JsonObject, JsonSchema, NamedTool, Tool, ToolChoice
from gateway.conversation.constraint import constraint
from gateway.conversation.dialect import Dialect
from gateway.conversation.prepared import prepare
from gateway.conversation.thinking import KNOWN_MARKS
from gateway.conversation.tool_formats.formats import FORMATS
from gateway.generation.completion import ServedModel, complete
from gateway.generation.sampling import SamplingParams
from gateway.generation.tokenizer import TextTokenizer
from shared.errors import InvalidRequest
from tests.gateway.conversation import families
from tests.gateway.conversation.answers import calls, content
from tests.gateway.conversation.families import speaking
from tests.gateway.conversation.serving import served
from tests.gateway.local_engine import LocalEngine
from tests.tiny_models import CHAT_TEMPLATE, END_ID, make_tiny_model

USER = {"role": "user", "content": "Weather in Paris?"}
SCHEMA = {
    "type": "object",
    "properties": {"city": {"enum": ["Paris", "Rome"]}, "days": {"type": "integer", "minimum": 1, "maximum": 9}},
    "required": ["city"],
    "additionalProperties": False,
}
WEATHER = Tool("weather", "Tells the weather", SCHEMA, strict=True)
TIME = Tool("time", None, {})
PARIS, NONE = '{"city": "Paris"}', "{}"
WRITTEN = {
    "hermes": (
        f'<tool_call>\n{{"name": "weather", "arguments": {PARIS}}}\n</tool_call>',
        '\n<tool_call>\n{"name": "time", "arguments": {}}\n</tool_call>',
    ),
    "llama3": (f'{{"name": "weather", "parameters": {PARIS}}}', '; {"name": "time", "parameters": {}}'),
    "mistral_named": (f"[TOOL_CALLS]weather[ARGS]{PARIS}", "[TOOL_CALLS]time[ARGS]{}"),
}
MISTRAL_ONE = f'[TOOL_CALLS] [{{"name": "weather", "arguments": {PARIS}}}]'


@pytest.fixture(scope="module")
def tokenizer() -> TextTokenizer:
    return speaking(CHAT_TEMPLATE)


@pytest.fixture(scope="module")
def model(tokenizer: TextTokenizer) -> ServedModel:
    return served(tokenizer)


async def keeps(
    model: ServedModel, ask: Ask, form: str, text: str, *, thinks: bool = False, inside: bool = False
) -> bool:
    """May the answer be this text, and end there?"""
    dialect = Dialect(True, True, True, True, True, False, True, FORMATS[form], KNOWN_MARKS[0] if thinks else None)
    written = constraint(ask, dialect, inside, model.tokenizer)
    assert written is not None
    matcher = (await model.grammars.lark(written, "tools")).matcher()
    for token in await model.tokenizer.encode_text(text):
        if not matcher.allowed()[token]:
            return False
        matcher.accept(token)
    return bool(matcher.allowed()[END_ID])


def asking(choice: ToolChoice, *, many: bool = True, **more: object) -> Ask:
    return Ask([USER], [WEATHER, TIME], choice, many, **more)  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("form", WRITTEN)
async def test_required_calls_are_one_or_several_in_the_form_of_the_model(model: ServedModel, form: str):
    first, second = WRITTEN[form]
    assert await keeps(model, asking("required"), form, first)
    assert await keeps(model, asking("required"), form, first + second)
    assert not await keeps(model, asking("required", many=False), form, first + second)
    assert not await keeps(model, asking("required"), form, "Sunny.")
    assert not await keeps(model, asking("required"), form, first.replace("Paris", "Bonn"))


@pytest.mark.parametrize("form", WRITTEN)
async def test_a_named_tool_is_called_once(model: ServedModel, form: str):
    first, second = WRITTEN[form]
    assert await keeps(model, asking(NamedTool("weather")), form, first)
    assert not await keeps(model, asking(NamedTool("weather")), form, first + second)
    assert not await keeps(model, asking(NamedTool("time")), form, first)


async def test_lists_of_calls_are_held_to_the_tools_as_well(model: ServedModel):
    assert await keeps(model, asking("required"), "mistral", MISTRAL_ONE)
    several = MISTRAL_ONE.removesuffix("]") + ', {"name": "time", "arguments": {}}]'
    assert await keeps(model, asking("required"), "mistral", several)
    assert await keeps(model, asking("required"), "generic", several.removeprefix("[TOOL_CALLS] "))


@pytest.mark.parametrize("form", ["hermes", "mistral_named", "mistral"])
async def test_a_strict_tool_that_may_be_called_keeps_to_its_schema_and_text_is_free(model: ServedModel, form: str):
    call = MISTRAL_ONE if form == "mistral" else WRITTEN[form][0]
    for text in ("Sunny.", call, f"Let me look.\n{call}"):
        assert await keeps(model, asking("auto"), form, text)
        assert not await keeps(model, asking("auto"), form, f"{text}{call}".replace("Paris", "Bonn"))


async def test_a_strict_call_without_an_opener_stands_alone(model: ServedModel):
    call = WRITTEN["llama3"][0]
    for text in ("Sunny {or not}.\n\nYes.", call, f"<|python_tag|>{call}"):
        assert await keeps(model, asking("auto"), "llama3", text)
    for text in (f"Look:\n{call}", call.replace("Paris", "Bonn"), '{"city": "Bonn"}'):
        assert not await keeps(model, asking("auto"), "llama3", text)


def test_tools_that_are_not_strict_and_may_be_called_are_free(tokenizer: TextTokenizer):
    dialect = Dialect(True, True, True, True, True, False, True, FORMATS["hermes"], None)
    assert constraint(Ask([USER], [TIME]), dialect, False, tokenizer) is None


@pytest.mark.parametrize("form", ["hermes", "llama3", "mistral_named", "generic"])
async def test_with_a_format_the_answer_is_a_call_or_keeps_to_it(model: ServedModel, form: str):
    ask = asking("auto", many=False, format=JsonSchema({"type": "object", "required": ["mood"]}, "response_format"))
    call = WRITTEN[form][0] if form in WRITTEN else f'{{"name": "weather", "arguments": {PARIS}}}'
    assert await keeps(model, ask, form, call)
    assert await keeps(model, ask, form, '{"mood": "good"}')
    assert not await keeps(model, ask, form, "Sunny.")


async def test_thinking_comes_before_what_is_constrained(model: ServedModel):
    call = WRITTEN["hermes"][0]
    assert await keeps(
        model, asking("required"), "hermes", f"<think>\nor {NONE}? </th\n</think>\n\n{call}", thinks=True
    )
    assert await keeps(model, asking("required"), "hermes", call, thinks=True)
    assert await keeps(model, asking("required"), "hermes", f"or not?</think>{call}", thinks=True, inside=True)
    assert not await keeps(model, asking("required"), "hermes", call, thinks=True, inside=True)
    only_json = Ask([USER], format=JsonObject())
    assert await keeps(model, only_json, "hermes", "<think>hm</think>\n{}", thinks=True)
    assert not await keeps(model, only_json, "hermes", "<think>hm</think>\nSunny", thinks=True)


async def test_what_cannot_be_enforced_is_refused_only_where_it_is_strict(model: ServedModel):
    schema = {"type": "object", "not": {"required": ["x"]}}
    call = '<tool_call>\n{"name": "odd", "arguments": {"y": 1}}\n</tool_call>'
    assert await keeps(model, Ask([USER], [Tool("odd", None, schema)], "required"), "hermes", call)
    with pytest.raises(InvalidRequest) as refused:
        await prepare(model, Ask([USER], [TIME, Tool("odd", None, schema, strict=True, param="tools[5]")], "required"))
    assert refused.value.param == "tools[5]"


@pytest.mark.parametrize(
    ("ask", "param"),
    [
        (Ask([USER], [TIME], NamedTool("other")), "tool_choice"),
        (Ask([USER], [], "required"), "tool_choice"),
        (Ask([USER], [TIME] * 129), "tools"),
        (Ask([USER], [Tool("f", "x" * 1_000_001, {})]), "tools"),
    ],
)
async def test_tools_that_do_not_fit_are_refused(model: ServedModel, ask: Ask, param: str):
    with pytest.raises(InvalidRequest) as refused:
        await prepare(model, ask)
    assert refused.value.param == param


async def test_only_marks_that_are_looked_for_are_shown(tokenizer: TextTokenizer):
    mistral, llama = served(speaking(families.MISTRAL_V11)), served(speaking(families.LLAMA31))
    shown = (await prepare(mistral, Ask([USER], [TIME]))).shown
    assert shown == {mistral.tokenizer.token_id("[TOOL_CALLS]"), mistral.tokenizer.token_id("[ARGS]")}
    assert (await prepare(mistral, Ask([USER]))).shown == frozenset()
    assert llama.tokenizer.token_id("<|eom_id|>") in (await prepare(llama, Ask([USER], [TIME]))).stop_ids


@pytest.mark.parametrize(
    "template", [CHAT_TEMPLATE, families.MISTRAL_V3, families.MISTRAL_V11, families.LLAMA31, families.HARMONY]
)
@pytest.mark.parametrize("choice", ["required", NamedTool("weather")])
async def test_a_model_that_writes_anything_calls_tools_as_it_must(
    engine: LocalEngine, template: str, choice: ToolChoice
):
    model = served(speaking(template), engine)
    tools = [WEATHER, Tool("time", None, {"properties": {"utc": {"type": "boolean"}}, "additionalProperties": False})]
    prepared = await prepare(model, Ask([USER], tools, choice, parallel_tool_calls=False))
    params = SamplingParams(1.0, 1.0, 0, 7, 400, model.end_ids | prepared.stop_ids, grammar=prepared.grammar)
    reader, parts = prepared.reader(), []
    async for piece in complete(model, prepared.prompt, [params], shown=prepared.shown, is_over=lambda _: reader.over):
        parts += reader.feed(piece.text)
    rest, finish = reader.end("stop")
    ((name, arguments),) = calls([*parts, *rest])
    jsonschema.validate(json.loads(arguments), SCHEMA if name == "weather" else tools[1].parameters)  # pyright: ignore[reportArgumentType]
    assert (content(parts), finish) == ("", "tool_calls")


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> LocalEngine:
    added = len(families.SPECIAL)
    return LocalEngine.load(
        make_tiny_model(tmp_path_factory.mktemp("model"), blocks=1, context=2048, vocab_size=END_ID + 1 + added)
    )
