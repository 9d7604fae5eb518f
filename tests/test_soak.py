"""Many clients for a while, some of which hang up: nothing leaks, nothing hangs."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import httpx
import psutil
import pytest

from tests.swarm import Swarm, running_swarm
from tests.tiny_models import make_tiny_model

REQUESTS, AT_ONCE, WARM_UP = 600, 12, 60
GROWTH_LIMIT = 40e6  # bytes a process may grow by over all requests: a leaked cache or link a request would show


@pytest.fixture(scope="module")
def swarm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Swarm]:
    model = make_tiny_model(tmp_path_factory.mktemp("model"), blocks=6, context=4096)
    with running_swarm(tmp_path_factory.mktemp("swarm"), {"tiny": model}) as swarm:
        for peer in [swarm.add_peer(blocks) for blocks in ("0:2", "2:4", "4:6")]:
            peer.ready()
        swarm.gateway.ready()
        yield swarm


def ask(url: str, number: int) -> str:
    """One request, long or short, streamed or not; every third client hangs up in the middle. What came of it."""
    chance = random.Random(number)
    body = {
        "model": "tiny",
        "messages": [{"role": "user", "content": "petal " * chance.randint(1, 100)}],
        "max_tokens": chance.randint(1, 60),
        "seed": number,
        "stream": number % 3 != 1,
    }
    with httpx.Client(timeout=60) as client:
        if not body["stream"]:
            return str(client.post(f"{url}/v1/chat/completions", json=body).status_code)
        with client.stream("POST", f"{url}/v1/chat/completions", json=body) as response:
            lines = response.iter_lines()
            if number % 3 == 2:
                next(lines, "")
                return "hung up"
            return "done" if "data: [DONE]" in list(lines) else f"cut off: {response.status_code}"


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_hundreds_of_requests_leave_no_cache_no_link_and_no_memory_behind(swarm: Swarm) -> None:
    processes = [psutil.Process(node.process.pid) for node in swarm.nodes]
    with ThreadPoolExecutor(AT_ONCE) as clients:
        list(clients.map(lambda number: ask(swarm.url, number), range(WARM_UP)))
        before = [(each.memory_info().rss, each.num_fds()) for each in processes]
        outcomes = Counter(clients.map(lambda number: ask(swarm.url, number), range(WARM_UP, REQUESTS)))
    assert set(outcomes) == {"200", "done", "hung up"}, outcomes
    swarm.wait_for(swarm.all_cache_free, 5)
    for process, (memory, files) in zip(processes, before, strict=True):
        assert process.memory_info().rss - memory < GROWTH_LIMIT
        assert process.num_fds() - files < 3 * AT_ONCE
