"""A completion over a real tiny model: pieces, ends and counts."""

from __future__ import annotations

from dataclasses import replace

import pytest

from gateway.generation.completion import Piece, ServedModel, complete
from gateway.generation.sampling import SamplingParams
from gateway.generation.tokenizer import TextTokenizer
from gateway.generation.tokens import Token
from tests.gateway.generation.grammars import InTurn
from tests.gateway.local_engine import LocalEngine
from tests.tiny_models import END_ID, START_ID, VOCAB_SIZE, make_tiny_model

PROMPT = [104, 105]
GREEDY = SamplingParams(temperature=0, top_p=1, top_k=0, seed=0, max_tokens=24, stop_ids=frozenset())


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> ServedModel:
    directory = make_tiny_model(tmp_path_factory.mktemp("model"), blocks=2)
    tokenizer = TextTokenizer.load(directory)
    return ServedModel("tiny", 0, tokenizer, LocalEngine.load(directory), 512, tokenizer.end_ids)


async def run(model: ServedModel, params: SamplingParams, stop: tuple[str, ...] = ()) -> list[Piece]:
    return [piece async for piece in complete(model, PROMPT, [params], stop)]


async def ids_of(model: ServedModel, params: SamplingParams) -> list[int]:
    (source,) = model.engine.generate_each(PROMPT, [params])
    return [token.id async for token in source]


def ids_in(pieces: list[Piece]) -> list[int]:
    return [token for piece in pieces for token in piece.ids]


def text_of(pieces: list[Piece]) -> str:
    return "".join(piece.text for piece in pieces)


async def test_the_pieces_are_the_tokens_text_up_to_max_tokens(model: ServedModel):
    pieces = await run(model, GREEDY)
    assert text_of(pieces) == model.tokenizer.decode(await ids_of(model, GREEDY))
    assert pieces[-1].finish == "length"
    assert [piece.finish for piece in pieces[:-1]] == [None] * (len(pieces) - 1)
    assert all(piece.text for piece in pieces[:-1])
    assert ids_in(pieces) == await ids_of(model, GREEDY)
    assert any(len(piece.ids) > 1 for piece in pieces)  # text was held back now and then, its ids with it


async def test_a_stop_id_ends_it_is_counted_and_is_no_text(model: ServedModel):
    ids = await ids_of(model, GREEDY)
    ended = ids.index(ids[5])
    pieces = await run(model, replace(GREEDY, stop_ids=frozenset({ids[5]})))
    assert text_of(pieces) == model.tokenizer.decode(ids[:ended])
    assert pieces[-1].finish == "stop"
    assert ids_in(pieces) == ids[: ended + 1]


async def test_a_stop_id_as_the_last_token_allowed_is_a_stop(model: ServedModel):
    ids = await ids_of(model, GREEDY)
    pieces = await run(model, replace(GREEDY, stop_ids=frozenset({ids[0]}), max_tokens=1))
    assert pieces == [Piece("", (Token(ids[0]),), "stop")]


async def test_a_stop_string_ends_generation_at_once(model: ServedModel):
    warm = replace(GREEDY, temperature=1, seed=3)
    whole = text_of(await run(model, warm))
    stop = whole[6:9]
    pieces = await run(model, warm, (stop, "never in it"))
    assert text_of(pieces) == whole[: whole.index(stop)]
    assert pieces[-1].finish == "stop"
    made = ids_in(pieces)
    assert len(made) < 24
    assert made == (await ids_of(model, warm))[: len(made)]
    assert model.engine.running == 0  # pyright: ignore[reportAttributeAccessIssue]


async def test_several_choices_are_told_apart_and_each_is_what_it_is_alone(model: ServedModel):
    choices = [replace(GREEDY, temperature=1, choice=0), replace(GREEDY, temperature=1, choice=1, max_tokens=9), GREEDY]
    pieces = [piece async for piece in complete(model, PROMPT, choices)]
    each = [[piece for piece in pieces if piece.choice == choice] for choice in range(3)]
    assert [ids_in(its) for its in each] == [await ids_of(model, params) for params in choices]
    assert [its[-1].finish for its in each] == ["length"] * 3
    assert len({text_of(its) for its in each}) == 3


async def test_an_end_that_a_grammar_forces_is_a_stop_without_text(model: ServedModel):
    grammar = InTurn(({40}, {41, 42}), model.end_ids, VOCAB_SIZE)
    pieces = await run(model, replace(GREEDY, stop_ids=model.end_ids, grammar=grammar))
    assert text_of(pieces) == model.tokenizer.decode(ids_in(pieces)[:2])
    assert (ids_in(pieces)[0], pieces[-1]) == (40, Piece("", (Token(END_ID),), "stop"))


async def test_no_end_comes_among_the_first_min_tokens(model: ServedModel):
    eager = replace(GREEDY, stop_ids=model.end_ids, logit_bias={END_ID: 100.0})
    assert ids_in(await run(model, eager)) == [END_ID]
    made = ids_in(await run(model, replace(eager, min_tokens=5)))
    assert (len(made), made.index(END_ID)) == (6, 5)


async def test_log_probabilities_come_with_the_pieces(model: ServedModel):
    pieces = await run(model, replace(GREEDY, top_logprobs=2))
    told = [token for piece in pieces for token in piece.tokens]
    assert all(token.top[0].token == token.id and token.top[0].logprob == token.logprob for token in told)
    assert {len(token.top) for token in told} == {2}


async def test_a_shown_special_token_has_a_text_and_others_none(model: ServedModel):
    grammar = InTurn(({START_ID}, {40}, {256}), model.end_ids, VOCAB_SIZE)
    params = replace(GREEDY, stop_ids=model.end_ids, grammar=grammar)
    pieces = [piece async for piece in complete(model, PROMPT, [params], shown=frozenset({START_ID}))]
    assert text_of(pieces) == "<|im_start|>" + model.tokenizer.decode([40])
    assert pieces[-1].finish == "stop"


async def test_closing_it_early_ends_the_engines_generation(model: ServedModel):
    pieces = complete(model, PROMPT, [GREEDY])
    await anext(pieces)
    assert model.engine.running == 1  # pyright: ignore[reportAttributeAccessIssue]
    await pieces.aclose()
    assert model.engine.running == 0  # pyright: ignore[reportAttributeAccessIssue]
