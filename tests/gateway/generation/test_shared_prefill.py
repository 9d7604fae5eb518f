"""Choices of one prompt: they share its prefill, and whatever becomes of one is nothing to the others."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from gateway.generation.merged import merged
from gateway.generation.tokens import Token
from shared.errors import HopFailed, OutOfCache
from tests.chains import soon
from tests.gateway.generation.test_engine import BLOCKS, SAMPLED, Bench
from tests.gateway.local_chain import PEER
from tests.tiny_models import make_tiny_model

PROMPT = torch.arange(300).mul(37).remainder(251).tolist()
CHOICES = [replace(SAMPLED, choice=choice) for choice in range(4)]
DRAWN = sum(params.max_tokens for params in CHOICES)

torch.set_num_threads(1)


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_model(tmp_path_factory.mktemp("model"), blocks=BLOCKS, context=8192)


@pytest.fixture
def bench(directory: Path) -> Bench:
    return Bench(directory)


@pytest.fixture(scope="module")
def alone(directory: Path) -> list[list[int]]:
    """What each choice yields when there is no other."""

    async def each() -> list[list[int]]:
        bench = Bench(directory)
        return [await bench.run(params, PROMPT) for params in CHOICES]

    return asyncio.run(each())


async def read(source: AsyncGenerator[Token, None]) -> list[int]:
    return [token.id async for token in source]


async def read_all(sources: Sequence[AsyncGenerator[Token, None]]) -> list[list[int]]:
    return await asyncio.wait_for(asyncio.gather(*map(read, sources)), 30)


def refusing(error: HopFailed) -> Callable[[int], Awaitable[None]]:
    async def forks(length: int) -> None:
        raise error

    return forks


class Gate:
    """Holds all forks until it opens."""

    def __init__(self) -> None:
        self.waiting = 0
        self.reached, self.opens = asyncio.Event(), asyncio.Event()

    async def __call__(self, length: int) -> None:
        self.waiting += 1
        self.reached.set()
        await self.opens.wait()


async def test_choices_run_the_prompt_once_and_each_yields_what_it_yields_alone(bench: Bench, alone: list[list[int]]):
    heard: list[str] = []
    assert await read_all(bench.engine.generate_each(PROMPT, CHOICES, heard.append)) == alone
    assert len(set(map(tuple, alone))) == len(CHOICES)
    assert bench.chains.pushed == len(PROMPT) + DRAWN - len(CHOICES)
    assert (bench.chains.opened, bench.chains.running, heard) == ([(320, False)], 0, ["here"])


@pytest.mark.parametrize("code", ["out_of_cache", "cannot_fork", "lost"])
async def test_a_refused_fork_costs_a_prefill(bench: Bench, alone: list[list[int]], code: str):
    bench.chains.forks = refusing(HopFailed(PEER, code, "no"))
    assert await read_all(bench.engine.generate_each(PROMPT, CHOICES)) == alone
    assert bench.chains.pushed == len(CHOICES) * len(PROMPT) + DRAWN - len(CHOICES)
    assert bench.chains.opened == [(320, False), *[(320, True)] * 3]
    assert bench.chains.running == 0


@pytest.mark.parametrize("room", [0, 1, 2])
async def test_choices_that_find_no_room_wait_for_that_of_their_siblings(
    bench: Bench, alone: list[list[int]], room: int
):
    """They never stand in the line for more than the request had: as many chains as there was room for."""
    asked, running = 0, list[int]()

    async def forks(length: int) -> None:
        nonlocal asked
        asked += 1
        if asked > room:
            raise HopFailed(PEER, "out_of_cache", "full")

    async def read_and_count(source: AsyncGenerator[Token, None]) -> list[int]:
        return [(token.id, running.append(bench.chains.running))[0] async for token in source]

    bench.chains.forks = forks
    sources = bench.engine.generate_each(PROMPT, CHOICES)
    assert await asyncio.wait_for(asyncio.gather(*map(read_and_count, sources)), 30) == alone
    assert (max(running), len(bench.chains.opened), bench.chains.running) == (1 + room, len(CHOICES) - room, 0)


async def test_one_choice_alone_opens_no_fork(bench: Bench, alone: list[list[int]]):
    bench.chains.forks = refusing(HopFailed(PEER, "lost", "nobody asks for this"))
    assert await read_all(bench.engine.generate_each(PROMPT, CHOICES[:1])) == alone[:1]
    assert len(bench.chains.opened) == 1


async def test_choices_that_are_never_read_hold_up_nobody(bench: Bench, alone: list[list[int]]):
    sources = bench.engine.generate_each(PROMPT, CHOICES)
    await sources[0].aclose()
    assert await read_all(sources[2:3]) == alone[2:3]
    assert bench.chains.running == 0
    assert await read_all([sources[3], sources[1]]) == [alone[3], alone[1]]


@pytest.mark.parametrize("after", [0, 1, 2])
async def test_when_the_choice_that_runs_the_prompt_is_cancelled_another_does(
    bench: Bench, alone: list[list[int]], after: int
):
    sources = bench.engine.generate_each(PROMPT, CHOICES)
    tasks = [asyncio.create_task(read(source)) for source in sources]
    await soon(lambda: bench.chains.opened and bench.chains.pushed >= after * 100)
    tasks[0].cancel()
    rest = await asyncio.wait_for(asyncio.gather(*tasks, return_exceptions=True), 30)
    assert isinstance(rest[0], asyncio.CancelledError)
    assert rest[1:] == alone[1:]
    assert bench.chains.running == 0


async def test_a_choice_that_ends_with_its_first_token_leaves_the_prompt_to_the_others(
    bench: Bench, alone: list[list[int]]
):
    bench.chains.forks = gate = Gate()
    choices = [replace(CHOICES[0], max_tokens=1), *CHOICES[1:]]
    reading = asyncio.create_task(read_all(bench.engine.generate_each(PROMPT, choices)))
    await asyncio.wait_for(gate.reached.wait(), 10)
    gate.opens.set()
    assert await reading == [alone[0][:1], *alone[1:]]
    assert len(bench.chains.opened) == 1


async def test_closing_all_while_forks_are_made_leaves_nothing_open(bench: Bench):
    bench.chains.forks = gate = Gate()
    stream = merged(bench.engine.generate_each(PROMPT, CHOICES))
    await anext(stream)
    await asyncio.wait_for(gate.reached.wait(), 10)
    await asyncio.wait_for(stream.aclose(), 10)
    assert bench.chains.running == 0


async def test_what_the_prompt_cannot_have_every_choice_is_told(bench: Bench):
    bench.chains.longest = 10
    with pytest.raises(OutOfCache):
        await read_all(bench.engine.generate_each(PROMPT, CHOICES))
    assert bench.chains.running == 0
