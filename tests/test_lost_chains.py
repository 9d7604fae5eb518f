"""Texts whose chain is given up and that go on over another one: an engine over real peers of a tiny model."""

from __future__ import annotations

from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractAsyncContextManager, aclosing
from pathlib import Path

import pytest
import torch

from gateway.generation.chains import Inputs
from gateway.generation.ends import Ends
from gateway.generation.engine import Engine
from gateway.generation.sampling import SamplingParams
from gateway.generation.shared_ends import SharedEnds
from gateway.swarm.chain import Chain
from tests.gateway.local_engine import LocalEngine
from tests.gateway.swarm.test_opening import BLOCKS, MODEL, Site, running_site
from tests.loopback import LocalPeer
from tests.tiny_models import make_tiny_model

PROMPT = [104, 105, 33]
SAMPLED = SamplingParams(temperature=1, top_p=1, top_k=0, seed=7, max_tokens=12, stop_ids=frozenset())


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    return make_tiny_model(tmp_path_factory.mktemp("model"), blocks=BLOCKS)


@pytest.fixture
async def site(directory: Path, tmp_path: Path) -> AsyncIterator[Site]:
    async with running_site(directory, tmp_path) as site:
        yield site


class Bench:
    """An engine over a site's peers; of each chain that it opens, whether a text goes on with it."""

    def __init__(self, directory: Path, site: Site) -> None:
        self.opened: list[bool] = []
        self._site = site
        ends = Ends.load(directory, dtype=torch.float32, device=torch.device("cpu"))
        self.engine = Engine(SharedEnds(ends, ThreadPoolExecutor(1)), self._open)

    def _open(self, reserve: int, resuming: bool, inputs: Inputs) -> AbstractAsyncContextManager[Chain]:
        self.opened.append(resuming)
        return self._site.swarm.open_chain(MODEL, reserve, resuming, inputs)


def break_promise(peer: LocalPeer) -> None:
    """It holds less for its session than it has said."""
    (session,) = peer.protocol.sessions
    session.reserve = 1


async def test_a_text_whose_chain_overruns_a_cache_goes_on_over_another_with_the_same_tokens(
    directory: Path, site: Site
) -> None:
    peers = [await site.add(blocks) for blocks in ("0:2", "2:4")]
    bench, ids = Bench(directory, site), []
    async with aclosing(bench.engine.generate(PROMPT, SAMPLED)) as text:
        async for token in text:
            ids.append(token.id)
            if len(ids) == 5:
                break_promise(peers[1])
    assert ids == [token.id async for token in LocalEngine.load(directory).generate(PROMPT, SAMPLED)]
    assert bench.opened == [False, True]
    assert not any(peer.peer in site.network.refusals.peers for peer in peers)
