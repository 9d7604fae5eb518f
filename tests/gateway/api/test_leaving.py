"""A gateway that leaves: it finishes what it answers, takes nothing new, and says so."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest

from gateway.generation.completion import ServedModel
from tests.gateway.api.conftest import DEADLINE_S, MODEL, Site

ASKED: dict[str, Any] = {"model": MODEL, "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 100, "seed": 1}


@pytest.fixture
def model(model: ServedModel) -> ServedModel:
    """One that never stops by itself."""
    return ServedModel(model.id, model.created, model.tokenizer, model.engine, model.context_length, frozenset())


@asynccontextmanager
async def begun_stream(http: httpx.AsyncClient, max_tokens: int) -> AsyncIterator[AsyncIterator[str]]:
    """The lines of an answer that has begun."""
    body = {**ASKED, "stream": True, "max_tokens": max_tokens}
    async with http.stream("POST", "/v1/chat/completions", json=body) as response:
        lines = (line async for line in response.aiter_lines() if line)
        await anext(lines)
        yield lines


async def test_a_stream_is_finished_and_new_requests_are_refused_meanwhile(site: Site, http: httpx.AsyncClient):
    async with begun_stream(http, max_tokens=450) as lines, asyncio.TaskGroup() as tasks:
        finishing = tasks.create_task(site.server.finish(DEADLINE_S))
        refused = await http.post("/v1/chat/completions", json=ASKED)
        health = await http.get("/health")
        assert not finishing.done()
        assert [line async for line in lines][-1] == "data: [DONE]"
    assert (refused.status_code, refused.json()["error"]["code"]) == (503, "shutting_down")
    assert int(refused.headers["retry-after"]) > 0
    assert (health.status_code, health.json()["status"]) == (503, "leaving")


async def test_a_whole_answer_is_finished_too(site: Site, http: httpx.AsyncClient, engine: Any):
    asking = asyncio.create_task(http.post("/v1/chat/completions", json=ASKED))
    async with asyncio.timeout(DEADLINE_S):
        await engine.began.wait()
        await site.server.finish(DEADLINE_S)
        answer = await asking
    assert answer.json()["usage"]["completion_tokens"] == 100


async def test_what_is_not_finished_in_time_ends_with_an_error(site: Site, http: httpx.AsyncClient):
    async with begun_stream(http, max_tokens=450) as lines:
        await site.server.finish(0.01)
        site.server.should_exit = True
        rest = [line async for line in lines]
    assert json.loads(rest[-1].removeprefix("data: "))["error"]["code"] == "shutting_down"


async def test_endless_streams_hold_nothing_up(site: Site, http: httpx.AsyncClient):
    async with http.stream("GET", "/swarm/events") as response:
        await anext(response.aiter_lines())
        async with asyncio.timeout(1):
            await site.server.finish(DEADLINE_S)
