"""A request that takes too long ends, says so, and holds nothing any more."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from typing import Any

import httpx
import pytest
from transformers import PreTrainedModel

from gateway.api import deadline
from gateway.api.edge import Edge
from gateway.generation.completion import ServedModel
from tests.gateway.api.conftest import DEADLINE_S, MODEL, Site
from tests.gateway.local_engine import LocalEngine
from tests.gateway.stalling_engine import StallingEngine

LONG: dict[str, Any] = {
    "model": MODEL, "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 450, "logit_bias": {"258": -100},
}  # fmt: skip


@pytest.fixture
def edge() -> Edge:
    return Edge(request_seconds=0.3)


@pytest.fixture
def model(model: ServedModel, weights: PreTrainedModel) -> ServedModel:
    return replace(model, engine=StallingEngine(weights))


@pytest.mark.parametrize("stream", [False, True])
async def test_an_answer_that_has_not_begun_becomes_an_error(
    http: httpx.AsyncClient, engine: LocalEngine, stream: bool
):
    answer = await http.post("/v1/chat/completions", json={**LONG, "stream": stream})
    assert (answer.status_code, answer.json()["error"]["code"]) == (504, "deadline_passed")
    assert (engine.running, engine.made) == (0, 1)
    assert answer.headers["x-request-id"]


async def test_a_stream_that_has_begun_ends_with_an_error(http: httpx.AsyncClient, engine: StallingEngine):
    engine.after = 20
    async with http.stream("POST", "/v1/chat/completions", json={**LONG, "stream": True}) as response:
        lines = [line async for line in response.aiter_lines() if line.startswith("data: ")]
    assert response.status_code == 200
    assert json.loads(lines[-1].removeprefix("data: "))["error"]["code"] == "deadline_passed"
    assert engine.running == 0


async def test_work_other_than_generation_ends_too(site: Site, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(deadline, "GRACE_S", 0.1)
    reader, writer = await asyncio.open_connection("127.0.0.1", site.port)
    writer.write(b"POST /v1/embeddings HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n{")
    async with asyncio.timeout(DEADLINE_S):
        head = await reader.readuntil(b"\r\n\r\n")
    writer.close()
    assert head.startswith(b"HTTP/1.1 504 ")


@pytest.mark.parametrize("edge", [Edge(request_seconds=60)])
async def test_what_ends_in_time_is_not_touched(http: httpx.AsyncClient, edge: Edge, engine: StallingEngine):
    engine.after = 20
    answer = await http.post("/v1/chat/completions", json={**LONG, "max_tokens": 20})
    assert answer.json()["usage"]["completion_tokens"] == 20
