from __future__ import annotations

import asyncio
import json
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from jsonschema import Draft202012Validator

from gateway.generation.compiled_grammar import CompiledGrammar
from gateway.generation.grammar import Grammar, Matcher
from gateway.generation.grammars import CACHED, Grammars
from gateway.generation.token_trie import TokenTrie
from gateway.generation.tokenizer import TextTokenizer
from shared.errors import GrammarFailed, InvalidRequest
from tests.gateway.tokenizers import fast, llama_like
from tests.schemas import EXAMPLES, TOO_WIDE, Example
from tests.tiny_models import END_ID, START_ID, VOCAB_SIZE, byte_tokenizer

END = frozenset({END_ID})
STRUCTURE = b'"{}[],: 0123456789.-tfn'


def bounded(number: int) -> dict[str, Any]:
    bounds = [(each + 0.123, each * 1000.54321 + 1) for each in range(number)]
    numbers = [{"type": "number", "minimum": least, "maximum": most} for least, most in bounds]
    return {"type": "object", "properties": {f"p{each}": schema for each, schema in enumerate(numbers)}}


def taken(grammar: Grammar, ids: list[int]) -> bool:
    """Whether an answer of these tokens may come, and then end."""
    matcher = grammar.matcher()
    for token in ids:
        if not matcher.allowed()[token]:
            return False
        matcher.accept(token)
    return bool(matcher.allowed()[END_ID])


async def takes(grammars: Grammars, tokenizer: TextTokenizer, schema: dict[str, Any], text: str) -> bool:
    grammar = await grammars.json_schema(schema, "response_format")
    return taken(grammar, await tokenizer.encode_text(text, special=False))


def wander(matcher: Matcher, rng: np.random.Generator, tokenizer: TextTokenizer, limit: int = 3000) -> str | None:
    """An answer of random tokens, more often of JSON's own; None where it has no end within the limit."""
    structure = [token for token in range(256) if tokenizer.token_bytes(token)[0] in STRUCTURE]
    ids: list[int] = []
    for _ in range(limit):
        allowed = matcher.allowed()
        likely = [token for token in structure if allowed[token]]
        if allowed[END_ID] and (not likely or rng.random() < 0.5):
            return tokenizer.decode(ids)
        ids.append(int(rng.choice(likely if likely and rng.random() < 0.7 else np.flatnonzero(allowed))))
        if ids[-1] == END_ID:
            return tokenizer.decode(ids[:-1])
        matcher.accept(ids[-1])
    return None


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda each: each.name)
async def test_whatever_comes_keeps_to_the_schema(
    grammars: Grammars, tokenizer: TextTokenizer, example: Example
) -> None:
    rng = np.random.default_rng(0)
    grammar = await grammars.json_schema(example.schema, "response_format")
    texts = [wander(grammar.matcher(), rng, tokenizer) for _ in range(10)]
    whole = [json.loads(text) for text in texts if text is not None]
    assert len(whole) >= 8
    for each in whole:
        Draft202012Validator(example.schema, format_checker=Draft202012Validator.FORMAT_CHECKER).validate(each)


async def test_any_json_object_may_come_and_nothing_else(grammars: Grammars, tokenizer: TextTokenizer) -> None:
    grammar = await grammars.json_object()
    for text, wanted in {
        '{"a": [1, null, {"b": "é\\n"}]}': True,
        "{}": True,
        "[]": False,
        "1": False,
        '{"a"': False,
    }.items():
        assert taken(grammar, await tokenizer.encode_text(text, special=False)) is wanted, text


async def test_white_space_is_one_space_after_a_comma_or_a_colon(grammars: Grammars, tokenizer: TextTokenizer) -> None:
    schema = {"type": "object", "additionalProperties": {"type": "integer"}}
    assert await takes(grammars, tokenizer, schema, '{"a": 1, "b":2,"c": 3}')
    for text in ('{ "a":1}', '{"a":  1}', '{"a":\n1}', '{"a":1 }', ' {"a":1}', '{"a":1}\n'):
        assert not await takes(grammars, tokenizer, schema, text), text


async def test_a_whole_answer_may_only_end(grammars: Grammars, tokenizer: TextTokenizer) -> None:
    matcher = (await grammars.json_schema({"const": "x"}, "response_format")).matcher()
    for token in await tokenizer.encode_text('"x"', special=False):
        assert not matcher.allowed()[END_ID]
        matcher.accept(token)
    assert np.flatnonzero(matcher.allowed()).tolist() == [END_ID]


async def test_an_answer_that_may_end_may_also_go_on(grammars: Grammars, tokenizer: TextTokenizer) -> None:
    matcher = (await grammars.json_schema({"type": "integer"}, "response_format")).matcher()
    matcher.accept((await tokenizer.encode_text("4", special=False))[0])
    assert matcher.allowed()[END_ID]
    assert matcher.allowed()[(await tokenizer.encode_text("2", special=False))[0]]


async def test_any_of_several_end_tokens_may_end(tokenizer: TextTokenizer) -> None:
    grammars = Grammars(tokenizer, frozenset({256, END_ID}))
    matcher = (await grammars.json_schema({"enum": [1]}, "response_format")).matcher()
    matcher.accept((await tokenizer.encode_text("1", special=False))[0])
    assert np.flatnonzero(matcher.allowed()).tolist() == [256, END_ID]


@pytest.mark.parametrize("vocab_size", [VOCAB_SIZE - 1, VOCAB_SIZE, VOCAB_SIZE + 1, 1000])
async def test_the_mask_has_the_logits_size_and_logits_without_a_token_never_come(
    tokenizer: TextTokenizer, vocab_size: int
) -> None:
    grammars = Grammars(tokenizer, END, TokenTrie(tokenizer, END, vocab_size))
    allowed = (await grammars.json_schema({"type": "string"}, "response_format")).matcher().allowed()
    assert allowed.shape == (vocab_size,)
    assert not allowed[256:].any()


async def test_choices_do_not_disturb_each_other(grammars: Grammars, tokenizer: TextTokenizer) -> None:
    grammar = await grammars.json_schema({"enum": ["ab", "cd"]}, "response_format")
    one, other = grammar.matcher(), grammar.matcher()
    for token in await tokenizer.encode_text('"a', special=False):
        one.accept(token)
    other.accept((await tokenizer.encode_text('"', special=False))[0])
    wanted = await tokenizer.encode_text("bac", special=False)
    assert np.flatnonzero(one.allowed()).tolist() == wanted[:1]
    assert sorted(np.flatnonzero(other.allowed())) == sorted(wanted[1:])


async def test_matchers_of_one_grammar_work_on_several_threads(grammars: Grammars, tokenizer: TextTokenizer) -> None:
    grammar = await grammars.json_schema(EXAMPLES[-1].schema, "response_format")

    def texts(seed: int) -> list[str | None]:
        rng = np.random.default_rng(seed)
        return [wander(grammar.matcher(), rng, tokenizer) for _ in range(3)]

    alone = [texts(seed) for seed in range(4)]
    assert await asyncio.gather(*(asyncio.to_thread(texts, seed) for seed in range(4))) == alone


async def test_a_token_that_may_not_come_is_an_error_that_stays(grammars: Grammars) -> None:
    matcher = (await grammars.json_object()).matcher()
    with pytest.raises(RuntimeError):
        matcher.accept(START_ID)
    with pytest.raises(RuntimeError):
        matcher.allowed()


async def test_special_tokens_and_schemas_stand_in_lark(grammars: Grammars, tokenizer: TextTokenizer) -> None:
    schema = '{"type": "object", "properties": {"a": {"type": "integer"}}, "additionalProperties": false}'
    grammar = await grammars.lark(f'start: <|im_start|> "f(" %json {schema} ")"', "tools")
    call = await tokenizer.encode_text('f({"a":1})', special=False)
    assert taken(grammar, [START_ID, *call])
    assert not taken(grammar, call)
    assert not taken(grammar, await tokenizer.encode_text('<|im_start|>f({"a":1})'[:3], special=False))


async def test_lark_that_is_wrong_is_refused_with_the_field(grammars: Grammars) -> None:
    for text in ("start: nothing", 'start: <|nope|> "a"', "start: /(/", "start: " + '"a" ' * 300_000):
        with pytest.raises(InvalidRequest) as caught:
            await grammars.lark(text, "tools")
        assert caught.value.param == "tools"


async def test_a_grammar_is_compiled_once_and_only_the_latest_are_kept(grammars: Grammars) -> None:
    first = await grammars.json_schema({"const": "kept"}, "a")
    assert await grammars.json_schema({"const": "kept"}, "b") is first
    for number in range(CACHED):
        await grammars.json_schema({"const": number}, "a")
    assert await grammars.json_schema({"const": "kept"}, "a") is not first


async def test_a_model_without_an_end_token_is_refused(tokenizer: TextTokenizer) -> None:
    with pytest.raises(InvalidRequest, match="no end token"):
        await Grammars(tokenizer, frozenset()).json_object()


async def test_bytes_as_fallback_and_spaces_of_sentencepiece_are_read_right() -> None:
    end = llama_like().token_to_id("</s>")
    assert end is not None
    tokenizer = TextTokenizer(fast(llama_like(), None), frozenset({end}))
    grammar = await Grammars(tokenizer, frozenset({end})).json_schema({"const": " a"}, "response_format")
    ids = [*(byte + 1 for byte in b'"'), llama_like().token_to_id("▁"), llama_like().token_to_id("a"), 1 + ord('"')]
    matcher = grammar.matcher()
    for token in ids:
        assert matcher.allowed()[token]
        matcher.accept(token)
    assert np.flatnonzero(matcher.allowed()).tolist() == [end]


async def test_the_event_loop_goes_on_while_a_large_schema_is_compiled(grammars: Grammars) -> None:
    names = {f"name{number}": {"enum": [f"value {each}" for each in range(20)]} for number in range(400)}
    turns = 0
    compiling = asyncio.ensure_future(grammars.json_schema({"type": "object", "properties": names}, "response_format"))
    while not compiling.done():
        await asyncio.sleep(0)
        turns += 1
    assert await compiling
    assert turns > 100


async def test_as_many_references_as_are_taken_do_not_overflow_the_stack(grammars: Grammars) -> None:
    schema: dict[str, Any] = {"$ref": "#/$defs/0", "$defs": {"255": {"type": "integer"}}}
    for number in range(255):
        deep: dict[str, Any] = {"$ref": f"#/$defs/{number + 1}"}
        for _ in range(35):
            deep = {"type": "array", "items": deep}
        schema["$defs"][str(number)] = deep
    assert await grammars.json_schema(schema, "response_format")


async def test_a_token_that_was_added_without_being_special_is_ordinary_text() -> None:
    fast_tokenizer = byte_tokenizer()
    fast_tokenizer.add_tokens(["<tool_call>"])
    tokenizer = TextTokenizer(fast_tokenizer, END)
    grammar = await Grammars(tokenizer, END).lark('start: "<tool_call>" "x"', "tools")
    bracket, x = await tokenizer.encode_text("<", special=False), await tokenizer.encode_text("x", special=False)
    assert sorted(np.flatnonzero(grammar.matcher().allowed())) == sorted([*bracket, VOCAB_SIZE])
    assert taken(grammar, [VOCAB_SIZE, *x])


async def test_an_answer_longer_than_a_lexer_holds_comes_whole_and_spoils_no_other(
    grammars: Grammars, tokenizer: TextTokenizer
) -> None:
    grammar = await grammars.json_schema({"type": "string", "maxLength": 6000}, "response_format")
    quote, *text = await tokenizer.encode_text('"' + "ab" * 3000, special=False)
    long, beside = grammar.matcher(), grammar.matcher()
    for matcher in (long, beside):
        matcher.prepare()
        matcher.accept(quote)
    for token in text:
        assert long.allowed()[token]
        long.accept(token)
    assert np.flatnonzero(long.allowed()).tolist() == [quote]
    beside.accept(text[0])
    assert beside.allowed()[text[1]]
    assert taken(grammar, [quote, text[0], quote])


async def test_an_answer_of_forty_thousand_tokens_is_resumed(trie: TokenTrie, tokenizer: TextTokenizer) -> None:
    with ThreadPoolExecutor(1) as compiler:
        grammar = CompiledGrammar(trie, 'start: %json {"type": "string", "maxLength": 40000}', compiler)
        resumed = grammar.resumed(await tokenizer.encode_text('"' + "ab" * 20_000, special=False))
        assert resumed.consume_tokens(await tokenizer.encode_text('"', special=False))
        assert resumed.is_accepting()


async def test_what_costs_too_much_to_follow_fails_without_quoting_the_answer(
    grammars: Grammars, tokenizer: TextTokenizer
) -> None:
    matcher = (await grammars.json_schema(TOO_WIDE, "response_format")).matcher()
    brace = (await tokenizer.encode_text("{", special=False))[0]
    matcher.prepare()
    for _ in range(2):
        with pytest.raises(GrammarFailed, match=r"^following what the answer has to keep to became too costly: [^{]*$"):
            matcher.accept(brace)


@pytest.mark.parametrize(
    "schema",
    [
        {"enum": [[number] + [0] * 20 for number in range(3500)]},
        {"properties": {f"{number}": {"properties": {f"p{name}": {} for name in range(999)}} for number in range(9)}},
        {"properties": {f"{number}": bounded(500) for number in range(7)}},
    ],
    ids=["values", "properties", "bounds"],
)
async def test_a_schema_that_would_take_seconds_to_compile_is_refused_as_too_large(
    grammars: Grammars, schema: dict[str, Any]
) -> None:
    with pytest.raises(InvalidRequest, match="it is too large") as caught:
        await grammars.json_schema(schema, "response_format")
    assert caught.value.param == "response_format"
