"""A completion over a real tiny model: pieces, ends and counts."""

from __future__ import annotations

from dataclasses import replace

import pytest

from gateway.generation.completion import Piece, ServedModel, complete
from gateway.generation.sampling import SamplingParams
from gateway.generation.tokenizer import TextTokenizer
from tests.gateway.local_engine import LocalEngine
from tests.tiny_models import make_tiny_model

PROMPT = [104, 105]
GREEDY = SamplingParams(temperature=0, top_p=1, top_k=0, seed=0, max_tokens=24, stop_ids=frozenset())


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> ServedModel:
    directory = make_tiny_model(tmp_path_factory.mktemp("model"), blocks=2)
    tokenizer = TextTokenizer.load(directory)
    return ServedModel("tiny", 0, tokenizer, LocalEngine.load(directory), 512, tokenizer.end_ids)


async def run(model: ServedModel, params: SamplingParams, stop: tuple[str, ...] = ()) -> list[Piece]:
    return [piece async for piece in complete(model, PROMPT, params, stop)]


async def ids_of(model: ServedModel, params: SamplingParams) -> list[int]:
    return [token async for token in model.engine.generate(PROMPT, params)]


def ids_in(pieces: list[Piece]) -> list[int]:
    return [token for piece in pieces for token in piece.ids]


def text_of(pieces: list[Piece]) -> str:
    return "".join(piece.text for piece in pieces)


async def test_the_pieces_are_the_tokens_text_up_to_max_tokens(model: ServedModel):
    pieces = await run(model, GREEDY)
    assert text_of(pieces) == model.tokenizer.decode(await ids_of(model, GREEDY))
    assert (pieces[-1].tokens, pieces[-1].finish) == (24, "length")
    assert [piece.finish for piece in pieces[:-1]] == [None] * (len(pieces) - 1)
    assert all(piece.text for piece in pieces[:-1])
    assert ids_in(pieces) == await ids_of(model, GREEDY)
    assert any(len(piece.ids) > 1 for piece in pieces)  # text was held back now and then, its ids with it


async def test_a_stop_id_ends_it_is_counted_and_is_no_text(model: ServedModel):
    ids = await ids_of(model, GREEDY)
    ended = ids.index(ids[5])
    pieces = await run(model, replace(GREEDY, stop_ids=frozenset({ids[5]})))
    assert text_of(pieces) == model.tokenizer.decode(ids[:ended])
    assert (pieces[-1].tokens, pieces[-1].finish) == (ended + 1, "stop")
    assert ids_in(pieces) == ids[: ended + 1]


async def test_a_stop_id_as_the_last_token_allowed_is_a_stop(model: ServedModel):
    ids = await ids_of(model, GREEDY)
    pieces = await run(model, replace(GREEDY, stop_ids=frozenset({ids[0]}), max_tokens=1))
    assert pieces == [Piece("", (ids[0],), 1, "stop")]


async def test_a_stop_string_ends_generation_at_once(model: ServedModel):
    warm = replace(GREEDY, temperature=1, seed=3)
    whole = text_of(await run(model, warm))
    stop = whole[6:9]
    pieces = await run(model, warm, (stop, "never in it"))
    assert text_of(pieces) == whole[: whole.index(stop)]
    assert pieces[-1].finish == "stop"
    assert pieces[-1].tokens < 24
    assert ids_in(pieces) == (await ids_of(model, warm))[: pieces[-1].tokens]
    assert model.engine.running == 0  # pyright: ignore[reportAttributeAccessIssue]


async def test_closing_it_early_ends_the_engines_generation(model: ServedModel):
    pieces = complete(model, PROMPT, GREEDY)
    await anext(pieces)
    assert model.engine.running == 1  # pyright: ignore[reportAttributeAccessIssue]
    await pieces.aclose()
    assert model.engine.running == 0  # pyright: ignore[reportAttributeAccessIssue]
