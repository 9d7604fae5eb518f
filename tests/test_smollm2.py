"""A real model over three real peers, against transformers' own `generate` in float32."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from gateway.demo_model import DEMO_MODEL, fetch_demo_model
from gateway.generation.sampling import SamplingParams
from gateway.serving import Serving, load
from gateway.settings import GatewaySettings
from gateway.swarm.admission import Admission
from gateway.swarm.peers import Peers
from gateway.swarm.swarm import Swarm as ChainSwarm
from shared.addresses import data_addresses
from shared.checkpoint import open_checkpoint
from shared.identity import Identity
from shared.network import Network
from shared.options import default_cache_dir
from shared.pool import Dialler, LinkPool
from tests.reference import Reference
from tests.swarm import Swarm, running_swarm

TOKENS = 64
SMALLEST_GAP = 1e-3  # between the best and the second score: float32 in another order moves scores by 1e-5
PROMPTS = (
    "What is the capital of France?",
    "Write a long story about a lighthouse keeper who finds a strange flower.",
    "Explain in simple words why the sky is blue.",
    "Give me a recipe for pancakes.",
    "Who was Ada Lovelace, and what did she do?",
)


@pytest.fixture(scope="module")
def directory() -> Path:
    return fetch_demo_model(default_cache_dir())


@pytest.fixture(scope="module")
def swarm(directory: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Swarm]:
    with running_swarm(tmp_path_factory.mktemp("smollm2"), {DEMO_MODEL: directory}) as swarm:
        for peer in [swarm.add_peer(blocks) for blocks in ("0:10", "10:20", "20:30")]:
            peer.ready()
        swarm.gateway.ready()
        yield swarm


@asynccontextmanager
async def second_gateway(swarm: Swarm, directory: Path, state: Path) -> AsyncIterator[Serving]:
    """A gateway's parts in this process, in the same swarm: its engine tells token ids."""
    settings = GatewaySettings(
        model=(str(directory),),
        model_name=(DEMO_MODEL,),
        host="127.0.0.1",
        port=0,
        join=(swarm.url,),
        swarm=swarm.name,
        listen="127.0.0.1",
        p2p_port=None,
        data_port=None,
        announce=(),
        device="cpu",
        dtype="float32",
        threads=1,
        head="none",
        queue_length=64,
        queue_seconds=60,
        state_dir=state,
        cache_dir=default_cache_dir(),
    )
    serving, identity = Serving(ThreadPoolExecutor(1)), Identity.create()
    checkpoint = open_checkpoint(str(directory), name=DEMO_MODEL, cache_dir=settings.cache_dir)
    serving.add(load(checkpoint, settings), str(directory))
    async with Network(identity, settings, default_port=31600) as network:
        dialler = Dialler(identity, swarm.name, lambda peer: data_addresses(network.table.get(peer)))
        peers, pool = Peers(network, dialler, serving.serves), LinkPool(dialler)
        serving.connect(ChainSwarm(identity.peer, peers, pool, Admission(peers.changes, 64, 60)), peers)
        following = asyncio.create_task(peers.run())
        async with asyncio.timeout(20):
            while not serving.whole(serving.models[0]):
                await peers.changes.wait()
        yield serving
        following.cancel()
        pool.close()


@pytest.mark.timeout(300)
async def test_greedy_decoding_gives_the_token_ids_of_transformers(
    swarm: Swarm, directory: Path, tmp_path: Path
) -> None:
    reference = Reference(directory)
    async with second_gateway(swarm, directory, tmp_path) as serving:
        served = serving.get(DEMO_MODEL)
        for prompt in PROMPTS:
            messages = [{"role": "user", "content": prompt}]
            wanted = await asyncio.to_thread(reference.answer, messages, TOKENS)
            ids = await served.tokenizer.encode_chat(messages)
            params = SamplingParams(0.0, 1.0, 0, seed=0, max_tokens=TOKENS, stop_ids=served.end_ids)
            found = [token async for token in served.engine.generate(ids, params)]
            assert wanted.gap > SMALLEST_GAP, prompt
            assert found == wanted.ids, prompt


def test_a_chat_has_the_answer_that_people_expect(swarm: Swarm) -> None:
    body = {"model": DEMO_MODEL, "messages": [{"role": "user", "content": PROMPTS[0]}], "temperature": 0}
    answer = swarm.client.post("/v1/chat/completions", json=body).json()
    assert answer["choices"][0]["message"]["content"] == "The capital of France is Paris."
    assert answer["choices"][0]["finish_reason"] == "stop"
