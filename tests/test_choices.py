"""Several choices of one prompt, and prompts of which every row is wanted: an engine over real peers of tiny models."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from gateway.generation.ends import Ends
from gateway.generation.engine import Engine
from gateway.generation.sampling import SamplingParams
from gateway.generation.shared_ends import SharedEnds
from tests.gateway.generation.test_prompt_rows import assert_same
from tests.gateway.generation.test_shared_prefill import read_all
from tests.gateway.local_engine import LocalEngine
from tests.gateway.swarm.test_opening import BLOCKS, MODEL, Site, running_site
from tests.loopback import LocalPeer
from tests.tiny_models import make_tiny_model

PROMPT = torch.arange(100).mul(37).remainder(251).tolist()
SAMPLED = SamplingParams(temperature=1, top_p=1, top_k=0, seed=7, max_tokens=12, stop_ids=frozenset())
CHOICES = [replace(SAMPLED, choice=choice) for choice in range(4)]
RANGES = ("0:1", "1:3", "3:4")


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    return make_tiny_model(tmp_path_factory.mktemp("model"), blocks=BLOCKS, context=1024)


@pytest.fixture
async def site(directory: Path, tmp_path: Path) -> AsyncIterator[Site]:
    async with running_site(directory, tmp_path) as site:
        yield site


@pytest.fixture
async def peers(site: Site) -> list[LocalPeer]:
    return [await site.add(blocks) for blocks in RANGES]


@pytest.fixture
def engine(directory: Path, site: Site, peers: list[LocalPeer]) -> Engine:
    return engine_over(directory, site)


def engine_over(directory: Path, site: Site) -> Engine:
    ends = Ends.load(directory, dtype=torch.float32, device=torch.device("cpu"))
    return Engine(
        SharedEnds(ends, ThreadPoolExecutor(1)),
        lambda reserve, resuming, inputs: site.swarm.open_chain(MODEL, reserve, resuming, inputs),
    )


async def alone(directory: Path, choices: list[SamplingParams]) -> list[list[int]]:
    """What a whole model in one place yields."""
    return await read_all(LocalEngine.load(directory).generate_each(PROMPT, choices))


async def all_free(site: Site, peers: list[LocalPeer]) -> None:
    await site.until(lambda: not any(len(peer.protocol.sessions) for peer in peers if peer.lives))


async def test_peers_run_the_prompt_of_four_choices_once(
    directory: Path, site: Site, peers: list[LocalPeer], engine: Engine
) -> None:
    heard: list[str] = []
    assert await read_all(engine.generate_each(PROMPT, CHOICES, heard.append)) == await alone(directory, CHOICES)
    assert {peer.tokens for peer in peers} == {len(PROMPT) + len(CHOICES) * (SAMPLED.max_tokens - 1)}
    assert heard == ["float32 none float32"]
    await all_free(site, peers)


@pytest.mark.parametrize("hop", range(len(RANGES)))
async def test_all_choices_go_on_when_a_peer_dies(
    directory: Path, site: Site, peers: list[LocalPeer], engine: Engine, hop: int
) -> None:
    await site.add(RANGES[hop], tokens_per_s=1.0)  # slower: nobody's first choice
    peers[hop].after(len(PROMPT) + 2 * len(CHOICES), peers[hop].die)
    assert await read_all(engine.generate_each(PROMPT, CHOICES)) == await alone(directory, CHOICES)
    assert not peers[hop].lives
    await all_free(site, peers)


async def test_more_choices_than_there_is_room_for_take_turns(
    directory: Path, site: Site, peers: list[LocalPeer], engine: Engine
) -> None:
    many = [replace(SAMPLED, choice=choice) for choice in range(12)]  # of 112 tokens, where 900 may be opened
    assert await read_all(engine.generate_each(PROMPT, many)) == await alone(directory, many)
    await all_free(site, peers)


async def test_a_prompt_is_scored_and_averaged_as_a_whole_model_does(
    directory: Path, site: Site, peers: list[LocalPeer], engine: Engine
) -> None:
    ids, whole = PROMPT * 6, LocalEngine.load(directory)
    scored, mean = await asyncio.gather(engine.score(ids, 2), engine.hidden_mean(PROMPT))
    assert_same(scored, await whole.score(ids, 2))
    np.testing.assert_allclose(mean, await whole.hidden_mean(PROMPT), atol=1e-4, rtol=0)
    await all_free(site, peers)


@pytest.mark.parametrize("hop", range(len(RANGES)))
async def test_a_prompt_is_scored_although_a_peer_dies(
    directory: Path, site: Site, peers: list[LocalPeer], engine: Engine, hop: int
) -> None:
    await site.add(RANGES[hop], tokens_per_s=1.0)  # slower: nobody's first choice
    ids = PROMPT * 6
    peers[hop].after(300, peers[hop].die)
    assert_same(await engine.score(ids, 2), await LocalEngine.load(directory).score(ids, 2))
    assert not peers[hop].lives
    await all_free(site, peers)


async def test_numerics_are_the_same_whoever_computes(directory: Path, site: Site, peers: list[LocalPeer]) -> None:
    others = [await site.add(blocks) for blocks in RANGES]
    heard: list[str] = []
    for gone in (others[0], peers[1]):
        site.announce(gone, state="draining")
        await engine_over(directory, site).score(PROMPT, 0, heard.append)
    assert heard == ["float32 none float32"] * 2
