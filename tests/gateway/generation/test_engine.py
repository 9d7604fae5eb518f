"""The engine over a tiny model's own blocks: its tokens, and what it asks of chains."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from gateway.generation.ends import Ends
from gateway.generation.engine import Engine
from gateway.generation.sampling import SamplingParams
from gateway.generation.shared_ends import SharedEnds
from shared.errors import HopFailed, OutOfCache
from tests.gateway.local_chain import PEER, LocalChains
from tests.gateway.local_engine import LocalEngine
from tests.tiny_models import make_tiny_model

BLOCKS = 2
PROMPT = [104, 105, 33]
SAMPLED = SamplingParams(temperature=1, top_p=1, top_k=0, seed=7, max_tokens=20, stop_ids=frozenset())

torch.set_num_threads(1)


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_model(tmp_path_factory.mktemp("model"), blocks=BLOCKS, context=8192)


class Bench:
    """An engine, the chains that it opens, and how many sessions shared each turn."""

    def __init__(self, directory: Path) -> None:
        self.chains = LocalChains(directory, BLOCKS)
        self.turns: list[int] = []
        ends = Ends.load(directory, dtype=torch.float32, device=torch.device("cpu"))
        shared = SharedEnds(ends, ThreadPoolExecutor(1), lambda rows, seconds: self.turns.append(rows))
        self.engine = Engine(shared, self.chains.open)

    async def run(self, params: SamplingParams, prompt: list[int] = PROMPT) -> list[int]:
        return [token.id async for token in self.engine.generate(prompt, params)]


@pytest.fixture
def bench(directory: Path) -> Bench:
    return Bench(directory)


@pytest.fixture(scope="module")
def long_text(directory: Path) -> list[int]:
    """1,400 tokens of the whole model."""
    return asyncio.run(whole_model(directory, PROMPT, replace(SAMPLED, max_tokens=1400)))


async def whole_model(directory: Path, prompt: list[int], params: SamplingParams) -> list[int]:
    return [token.id async for token in LocalEngine.load(directory).generate(prompt, params)]


@pytest.mark.parametrize("length", [1, 256, 600])
async def test_a_prompt_of_any_length_gives_what_the_whole_model_gives(directory: Path, bench: Bench, length: int):
    prompt = torch.arange(length).mul(37).remainder(251).tolist()
    assert await bench.run(SAMPLED, prompt) == await whole_model(directory, prompt, SAMPLED)
    assert bench.chains.opened == [(length + 20, False)]


async def test_sessions_share_turns_and_each_gets_what_it_gets_alone(bench: Bench):
    asked = [replace(SAMPLED, seed=seed, temperature=seed % 3) for seed in range(8)]
    alone = [await bench.run(params) for params in asked]
    assert set(bench.turns) == {1}
    bench.turns.clear()
    assert await asyncio.gather(*(bench.run(params) for params in asked)) == alone
    assert sum(bench.turns) == 8 * 20
    assert max(bench.turns) > 2


async def test_a_stop_token_ends_it_and_so_does_the_caller(bench: Bench):
    tokens = await bench.run(SAMPLED)
    stopping = replace(SAMPLED, stop_ids=frozenset({tokens[4]}))
    assert await bench.run(stopping) == tokens[: tokens.index(tokens[4]) + 1]
    async with aclosing(bench.engine.generate(PROMPT, SAMPLED)) as stream:
        assert (await anext(stream)).id == tokens[0]
        assert bench.chains.running == 1
    assert bench.chains.running == 0


@pytest.mark.slow
async def test_more_room_is_asked_for_before_it_is_needed(bench: Bench, long_text: list[int]):
    assert await bench.run(replace(SAMPLED, max_tokens=1400)) == long_text
    assert bench.chains.opened == [(1027, False)]
    assert bench.chains.asked == [1403]


@pytest.mark.slow
async def test_a_session_without_more_room_goes_on_over_another_chain(bench: Bench, long_text: list[int]):
    bench.chains.grants = lambda reserve: False
    assert await bench.run(replace(SAMPLED, max_tokens=1400)) == long_text
    assert bench.chains.opened == [(1027, False), (1284, True), (1403, True)]  # what it has, and some to begin with
    # 255, 191, 127, 63 tokens before the end, and when nothing is left: for less, once much was refused.
    assert bench.chains.asked[:5] == [1403, 1091, 1091, 1091, 1091]
    assert bench.chains.running == 0


@pytest.mark.slow
async def test_a_refusal_is_no_last_word(bench: Bench, long_text: list[int]):
    bench.chains.grants = lambda reserve: len(bench.chains.asked) > 2
    assert await bench.run(replace(SAMPLED, max_tokens=1400)) == long_text
    assert len(bench.chains.opened) == 1
    assert bench.chains.asked == [1403, 1091, 1091, 1403]


async def test_a_text_that_no_peers_could_hold_ends_where_they_could_not(bench: Bench, long_text: list[int]):
    bench.chains.grants, bench.chains.longest = (lambda reserve: False), 1100
    text = await bench.run(replace(SAMPLED, max_tokens=1400))
    assert text == long_text[: len(text)]
    assert len(text) == 1025
    bench.chains.longest = 1000
    with pytest.raises(OutOfCache):  # one that does not even begin is refused
        await bench.run(replace(SAMPLED, max_tokens=1400))


@pytest.mark.parametrize("tokens", [1, 1024])
async def test_a_session_that_has_all_it_can_need_asks_for_nothing(bench: Bench, tokens: int):
    bench.chains.grants = lambda reserve: False
    assert len(await bench.run(replace(SAMPLED, max_tokens=tokens))) == tokens
    assert bench.chains.asked == []
    assert len(bench.chains.opened) == 1


async def test_a_hop_that_fails_while_it_is_asked_fails_the_stream(bench: Bench):
    bench.chains.grants = failing("lost")
    with pytest.raises(HopFailed, match="lost"):
        await bench.run(replace(SAMPLED, max_tokens=1400))
    assert bench.chains.running == 0


def failing(reason: str) -> Callable[[int], bool]:
    def grants(reserve: int) -> bool:
        raise HopFailed(PEER, "lost", reason)

    return grants
