"""Far more requests than a small swarm can hold: each is answered or refused, and nothing grows or stays behind."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import psutil
import pytest

from tests.reference import Reference
from tests.swarm import Swarm, running_swarm
from tests.tiny_models import make_tiny_model

REQUESTS, TOKENS = 200, 24
CACHE_TOKENS = 600  # four or five of these sessions at a time
GROWTH_LIMIT = 25e6
"""Bytes that any process may grow by: a connection and a request take some 100 kB of the gateway."""
CONVERSATIONS = [[{"role": "user", "content": f"Petals, {'and more ' * number}please."}] for number in range(8)]


@dataclass(frozen=True, slots=True)
class Outcome:
    """How one request ended: its HTTP status, the text that it got, and what it was told of an error."""

    status: int
    text: str
    code: str = ""
    retry_after: str = ""


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_model(tmp_path_factory.mktemp("model"), blocks=6, seed=1, context=1024)


@pytest.fixture(scope="module")
def swarm(tmp_path_factory: pytest.TempPathFactory, model: Path) -> Iterator[Swarm]:
    with running_swarm(
        tmp_path_factory.mktemp("swarm"), {"tiny": model}, "--queue-length", "64", "--queue-seconds", "6"
    ) as swarm:
        for peer in [swarm.add_peer(blocks, "--cache-tokens", str(CACHE_TOKENS)) for blocks in ("0:3", "3:6")]:
            peer.ready()
        swarm.gateway.ready()
        yield swarm


async def ask(client: httpx.AsyncClient, number: int) -> Outcome:
    """One request, streamed or not, to its very end."""
    messages = CONVERSATIONS[number % len(CONVERSATIONS)]
    stream = number // len(CONVERSATIONS) % 2 == 0
    body = {"model": "tiny", "messages": messages, "max_tokens": TOKENS, "temperature": 0, "stream": stream}
    async with client.stream("POST", "/v1/chat/completions", json=body) as response:
        if response.status_code != 200:
            error = json.loads(await response.aread())["error"]
            return Outcome(response.status_code, "", error["code"], response.headers.get("retry-after", ""))
        if stream:
            return await streamed(response.aiter_lines())
        choice = json.loads(await response.aread())["choices"][0]
        return Outcome(200, choice["message"]["content"])


async def streamed(lines: AsyncIterator[str]) -> Outcome:
    """What a stream said; one that is cut, or that ends with an error, has a code."""
    text = ""
    async for line in lines:
        if line == "data: [DONE]":
            return Outcome(200, text)
        if line.startswith("data: "):
            event = json.loads(line.removeprefix("data: "))
            if "error" in event:
                return Outcome(200, text, event["error"]["code"])
            text += "".join(choice["delta"].get("content") or "" for choice in event["choices"])
    return Outcome(200, text, "cut")


async def ask_all(swarm: Swarm, numbers: range) -> tuple[list[Outcome], dict[int, int]]:
    """All at once; what became of each, and the most memory that each process had whenever one ended."""
    processes = every_process(swarm)
    most = dict.fromkeys((each.pid for each in processes), 0)

    async def one(client: httpx.AsyncClient, number: int) -> Outcome:
        outcome = await ask(client, number)
        most.update({each.pid: max(most[each.pid], each.memory_info().rss) for each in processes})
        return outcome

    limits = httpx.Limits(max_connections=None)
    async with httpx.AsyncClient(base_url=swarm.url, timeout=60, limits=limits) as client:
        outcomes = await asyncio.gather(*(one(client, number) for number in numbers))
    return outcomes, most


def every_process(swarm: Swarm) -> list[psutil.Process]:
    """The gateway, the peers, and the libp2p process of each."""
    programs = [psutil.Process(node.process.pid) for node in swarm.nodes]
    return [*programs, *(child for each in programs for child in each.children())]


def counter(swarm: Swarm, name: str) -> float:
    lines = swarm.client.get("/metrics").text.splitlines()
    return next(float(line.split()[1]) for line in lines if line.startswith(f"{name} "))


@pytest.mark.slow
async def test_two_hundred_at_once_are_answered_or_refused_and_leave_nothing_behind(swarm: Swarm, model: Path) -> None:
    alone = [Reference(model).answer(messages, TOKENS) for messages in CONVERSATIONS]
    assert all(each.gap > 1e-4 for each in alone)  # so that no rounding decides
    _, before = await ask_all(swarm, range(40))
    swarm.wait_for(swarm.all_cache_free, 5)

    outcomes, most = await ask_all(swarm, range(REQUESTS))

    answered = [(number, each.text) for number, each in enumerate(outcomes) if not each.code]
    for number, text in answered:
        assert text
        assert alone[number % len(alone)].text.startswith(text.rstrip("\ufffd"))
    refused = [each for each in outcomes if each.code]
    assert {(each.status, each.code) for each in refused} <= {(429, "queue_full"), (503, "queue_timeout")}
    assert all(int(each.retry_after) > 0 for each in refused)
    counts = Counter(each.status for each in outcomes)
    assert counts[200] >= 16, counts
    assert counts[429] >= 64, counts
    assert {pid: most[pid] - before[pid] for pid in most if most[pid] - before[pid] > GROWTH_LIMIT} == {}

    swarm.wait_for(swarm.all_cache_free, 5)
    assert counter(swarm, "corolla_queue_length") == counter(swarm, "corolla_requests_in_progress") == 0
    again, _ = await ask_all(swarm, range(1))
    assert not again[0].code
