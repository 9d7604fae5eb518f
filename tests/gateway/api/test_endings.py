"""How a request ends before its time: the client leaves, or the program does."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from typing import Any, cast

import httpx
import pytest

from gateway.generation.completion import ServedModel
from gateway.generation.tokenizer import TextTokenizer
from tests.gateway.api.conftest import DEADLINE_S, MODEL, Board, Shelf, Site, app_over, running
from tests.gateway.local_engine import LocalEngine

LONG: dict[str, Any] = {
    "model": MODEL,
    "messages": [{"role": "user", "content": "Hi"}],
    "max_tokens": 450,
    "logit_bias": {},
    "seed": 1,
}


@pytest.fixture
def model(model: ServedModel) -> ServedModel:
    """One that never stops by itself."""
    return ServedModel(model.id, model.created, model.tokenizer, model.engine, model.context_length, frozenset())


async def test_a_client_that_leaves_a_stream_ends_the_generation(http: httpx.AsyncClient, engine: LocalEngine):
    async with http.stream("POST", "/v1/chat/completions", json={**LONG, "stream": True}) as response:
        await anext(response.aiter_lines())
    async with asyncio.timeout(2):
        await engine.ended.wait()
    assert engine.running == 0
    assert engine.made < 450


@pytest.mark.parametrize("stream", [False, True])
async def test_a_client_that_leaves_before_an_answer_ends_the_generation(site: Site, engine: LocalEngine, stream: bool):
    _, writer = await asyncio.open_connection("127.0.0.1", site.port)
    body = json.dumps({**LONG, "stream": stream}).encode()
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n"
    writer.write(head.encode() + b"Content-Type: application/json\r\n\r\n" + body)
    async with asyncio.timeout(DEADLINE_S):
        await engine.began.wait()
    writer.close()
    async with asyncio.timeout(2):
        await engine.ended.wait()
    assert engine.running == 0
    assert engine.made < 450


class Endless:
    """A tokenizer whose prompts are never ready."""

    def __init__(self, tokenizer: TextTokenizer) -> None:
        self._tokenizer = tokenizer
        self.began, self.cancelled = asyncio.Event(), asyncio.Event()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._tokenizer, name)

    async def encode_chat(self, *told: Any) -> list[int]:
        self.began.set()
        try:
            return await asyncio.get_running_loop().create_future()
        finally:
            self.cancelled.set()


@pytest.mark.parametrize("path", ["chat/completions", "responses"])
async def test_a_client_that_leaves_before_its_prompt_is_made_ends_that(
    site: Site, http: httpx.AsyncClient, model: ServedModel, path: str
):
    tokenizer = Endless(model.tokenizer)
    site.shelf.models[MODEL] = replace(model, tokenizer=cast(TextTokenizer, tokenizer))
    body = {"model": MODEL, **({"input": "Hi"} if path == "responses" else {"messages": LONG["messages"]})}
    asking = asyncio.create_task(http.post(f"/v1/{path}", json=body))
    async with asyncio.timeout(DEADLINE_S):
        await tokenizer.began.wait()
        asking.cancel()
        await tokenizer.cancelled.wait()


async def test_streams_end_with_the_server_and_say_so(model: ServedModel, engine: LocalEngine):
    async with httpx.AsyncClient(timeout=DEADLINE_S) as client, running(app_over(Shelf(model), Board())) as server:
        url = f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
        chat = client.stream("POST", f"{url}/v1/chat/completions", json={**LONG, "stream": True})
        events = client.stream("GET", f"{url}/swarm/events")
        whole = asyncio.create_task(client.post(f"{url}/v1/chat/completions", json=LONG))
        async with chat as talking, events as watching:
            lines, news = talking.aiter_lines(), watching.aiter_lines()
            await anext(lines)
            await anext(news)
            server.should_exit = True
            start = asyncio.get_running_loop().time()
            rest = [line async for line in lines if line]
            assert [line async for line in news if line] == []
            answer = await whole
        assert asyncio.get_running_loop().time() - start < 2
    assert json.loads(rest[-1].removeprefix("data: "))["error"]["code"] == "shutting_down"
    assert answer.status_code == 503
    assert engine.running == 0
