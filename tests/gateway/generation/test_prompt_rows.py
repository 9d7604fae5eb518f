"""Probabilities and hidden states of whole texts, against the whole model by transformers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from gateway.generation import prompt_rows, shared_ends
from gateway.generation.tokens import Token
from shared.errors import HopFailed
from shared.tensors import Encoded, encode_hidden
from tests.gateway.generation.test_engine import BLOCKS, Bench
from tests.gateway.local_chain import PEER, LocalChain
from tests.gateway.local_engine import LocalEngine
from tests.peer.model.families import VARIANTS
from tests.tiny_models import make_tiny_model

IDS = torch.arange(600).mul(37).remainder(251).tolist()

torch.set_num_threads(1)


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_model(tmp_path_factory.mktemp("model"), blocks=BLOCKS, context=1024)


@pytest.fixture
def bench(directory: Path) -> Bench:
    return Bench(directory)


def assert_same(scored: list[Token], expected: list[Token]) -> None:
    """To 1e-4; the likeliest may change places where they are as close."""
    assert [token.id for token in scored] == [token.id for token in expected]
    assert (scored[0].logprob, scored[0].top) == (None, ())
    for token, other in zip(scored[1:], expected[1:], strict=True):
        assert token.logprob == pytest.approx(other.logprob, abs=1e-4)
        assert [each.logprob for each in token.top] == pytest.approx([each.logprob for each in other.top], abs=1e-4)


@pytest.mark.parametrize("length", [1, 2, 256, 257, 600])
async def test_texts_of_any_length_are_scored_as_the_whole_model_does(directory: Path, bench: Bench, length: int):
    heard: list[str] = []
    scored = await bench.engine.score(IDS[:length], 3, heard.append)
    assert_same(scored, await LocalEngine.load(directory).score(IDS[:length], 3))
    assert all(len(token.top) == 3 for token in scored[1:])
    assert (heard, bench.chains.running, bench.chains.pushed) == (["here"], 0, length)


@pytest.mark.parametrize(("family", "overrides"), VARIANTS, ids=lambda value: str(value).replace("{}", "plain"))
async def test_every_family_gives_what_it_gives_whole(family: str, overrides: dict[str, Any], tmp_path: Path):
    directory = make_tiny_model(tmp_path, family, blocks=BLOCKS, **overrides)
    bench, whole = Bench(directory), LocalEngine.load(directory)
    np.testing.assert_allclose(
        await bench.engine.hidden_mean(IDS[:40]), await whole.hidden_mean(IDS[:40]), atol=1e-4, rtol=0
    )
    assert_same(await bench.engine.score(IDS[:40], 2), await whole.score(IDS[:40], 2))


async def test_few_chunks_are_on_their_way_at_once(directory: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(prompt_rows, "AHEAD_CHUNKS", 2)
    monkeypatch.setattr(shared_ends, "SCORED_ROWS", 7)
    bench, ahead = Bench(directory), list[int]()
    rows, taken = LocalChain.rows, 0

    async def counted(chain: LocalChain, width: int) -> Encoded:
        nonlocal taken
        ahead.append(bench.chains.pushed - taken)
        encoded = await rows(chain, width)
        taken += encoded.specs[0].shape[0]
        return encoded

    monkeypatch.setattr(LocalChain, "rows", counted)
    assert len(await bench.engine.score(IDS, 0)) == len(IDS)
    assert ahead == [512, 344, 88]


async def test_rows_that_are_not_finite_are_asked_for_again_and_their_sender_is_named(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
):
    rows, rejected = LocalChain.rows, []
    kept: list[Encoded] = []

    async def once_bad(chain: LocalChain, width: int) -> Encoded:
        if kept:
            return kept.pop()
        encoded = await rows(chain, width)
        if rejected:
            return encoded
        kept.append(encoded)
        return encode_hidden(torch.full((encoded.specs[0].shape[0], width), torch.inf))

    monkeypatch.setattr(LocalChain, "rows", once_bad)
    monkeypatch.setattr(LocalChain, "reject", lambda chain, error: rejected.append(error))
    mean = await bench.engine.hidden_mean(IDS[:300])
    assert [(type(error), error.peer, error.code) for error in rejected] == [(HopFailed, PEER, "not_finite")]
    monkeypatch.undo()
    np.testing.assert_array_equal(mean, await bench.engine.hidden_mean(IDS[:300]))
