"""How much may be asked for: by one key in a minute, and by all at once."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import closing, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest
from transformers import PreTrainedModel

from gateway.api import connection
from gateway.api.caller import Caller
from gateway.api.edge import Edge
from gateway.api.limits import RATE_HEADERS, Allowances, duration
from gateway.generation.completion import ServedModel
from gateway.generation.sampling import SamplingParams
from gateway.generation.tokens import OnOpen, Token
from gateway.store.keyring import KeyRing
from gateway.store.store import Store
from gateway.store.usage import Account, Used
from shared.errors import QueueFull, RateLimited
from tests.gateway.api.conftest import DEADLINE_S, MODEL, Site
from tests.gateway.local_engine import LocalEngine
from tests.gateway.stalling_engine import StallingEngine

ASKED: dict[str, Any] = {
    "model": MODEL, "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 5, "logit_bias": {"258": -100},
}  # fmt: skip


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def kept(tmp_path: Path) -> Iterator[Store]:
    store = Store.open(None, tmp_path)
    yield store
    store.close()


@pytest.fixture
def edge(kept: Store, clock: Clock) -> Edge:
    return Edge(keys=KeyRing(kept.keys), ledger=kept.ledger, allowances=Allowances(clock), max_requests=2)


@pytest.fixture
async def http(site: Site, kept: Store) -> AsyncIterator[httpx.AsyncClient]:
    """With a key of two requests and 60 tokens a minute."""
    _, secret = await kept.keys.create("limited", requests_per_minute=2, tokens_per_minute=60)
    headers = {"Authorization": f"Bearer {secret}"}
    async with httpx.AsyncClient(base_url=site.url, timeout=DEADLINE_S, headers=headers) as client:
        yield client


async def test_the_requests_of_a_minute_are_used_up_and_come_back(http: httpx.AsyncClient, clock: Clock):
    answers = [await http.post("/v1/completions", json={}) for _ in range(3)]
    assert [each.status_code for each in answers] == [400, 400, 429]
    assert [each.headers["x-ratelimit-remaining-requests"] for each in answers] == ["1", "0", "0"]
    assert answers[2].json()["error"]["code"] == "rate_limit_exceeded"
    assert (answers[2].headers["retry-after"], answers[2].headers["x-ratelimit-reset-requests"]) == ("30", "1m0s")
    clock.now += 30
    assert (await http.post("/v1/completions", json={})).status_code == 400


async def test_a_look_at_a_stored_response_is_a_request_too(http: httpx.AsyncClient):
    paths = ("/v1/responses/resp_1", "/v1/responses/resp_1/input_items", "/v1/responses/resp_1")
    assert [(await http.get(path)).status_code for path in paths] == [404, 404, 429]
    assert (await http.get("/v1/models")).status_code == 200


class FullEngine(LocalEngine):
    """Has no room for anything."""

    async def generate(
        self, prompt: list[int], params: SamplingParams, on_open: OnOpen = lambda numerics: None
    ) -> AsyncGenerator[Token, None]:
        raise QueueFull("64 requests wait")
        yield Token(0)  # so that it is a generator


async def test_a_prompt_for_which_there_is_no_room_costs_nothing(
    site: Site, http: httpx.AsyncClient, model: ServedModel, weights: PreTrainedModel, kept: Store
):
    site.serve(model, FullEngine(weights))
    for path, asked in (("chat/completions", ASKED), ("responses", {"model": MODEL, "input": "Hi"})):
        refused = await http.post(f"/v1/{path}", json=asked)
        assert (refused.status_code, refused.headers["x-ratelimit-remaining-tokens"]) == (429, "60")
        assert refused.json()["error"]["code"] == "queue_full"
    await kept.ledger.flush()
    assert await kept.usage.since(datetime.now(UTC).date()) == {}


async def test_the_tokens_of_a_minute_are_charged_as_they_are_used(http: httpx.AsyncClient, clock: Clock):
    answer = await http.post("/v1/chat/completions", json=ASKED)
    used = answer.json()["usage"]["total_tokens"]
    assert answer.headers["x-ratelimit-limit-tokens"] == "60"
    assert answer.headers["x-ratelimit-remaining-tokens"] == str(60 - used)
    await http.post("/v1/chat/completions", json={**ASKED, "max_tokens": 100})
    clock.now += 30  # another request, but no tokens: more were used than a minute has
    refused = await http.post("/v1/chat/completions", json=ASKED)
    assert (refused.status_code, refused.headers["x-ratelimit-remaining-tokens"]) == (429, "0")
    assert "60 tokens" in refused.json()["error"]["message"]
    clock.now += int(refused.headers["retry-after"])
    assert (await http.post("/v1/chat/completions", json=ASKED)).status_code == 200


async def test_every_answer_of_a_limited_key_tells_what_is_left(http: httpx.AsyncClient, kept: Store):
    for path in ("/v1/models", "/none"):
        assert set(RATE_HEADERS) <= set((await http.get(path)).headers)
    _, secret = await kept.keys.create("unlimited")
    free = await http.get("/v1/models", headers={"Authorization": f"Bearer {secret}"})
    assert not set(RATE_HEADERS) & set(free.headers)


async def test_what_a_key_uses_is_kept(http: httpx.AsyncClient, kept: Store):
    whole = (await http.post("/v1/chat/completions", json=ASKED)).json()["usage"]
    await http.post("/v1/chat/completions", json={**ASKED, "stream": True})
    await kept.ledger.flush()
    (key,), today = await kept.keys.all(), datetime.now(UTC).date()
    expected = Used(2, 2 * whole["prompt_tokens"], 2 * whole["completion_tokens"])
    assert await kept.usage.since(today) == {Account(key.id, today, MODEL): expected}


@pytest.mark.parametrize("edge", [Edge(max_requests=1)])
async def test_more_than_can_be_answered_at_once_are_refused(
    site: Site, http: httpx.AsyncClient, model: ServedModel, weights: PreTrainedModel, edge: Edge
):
    site.serve(model, stalling := StallingEngine(weights))
    running = asyncio.create_task(http.post("/v1/chat/completions", json=ASKED))
    async with asyncio.timeout(DEADLINE_S):
        await stalling.began.wait()
    refused = await http.post("/v1/chat/completions", json=ASKED)
    assert (refused.status_code, refused.json()["error"]["code"]) == (429, "too_many_requests")
    assert int(refused.headers["retry-after"]) > 0
    assert (await http.get("/v1/models")).status_code == 200
    running.cancel()
    async with asyncio.timeout(DEADLINE_S):
        await stalling.ended.wait()
        while (await http.post("/v1/chat/completions", json={})).status_code != 400:
            pass


@pytest.mark.parametrize("edge", [Edge(body_limit_bytes=1000)])
async def test_a_body_over_the_limit_is_refused(http: httpx.AsyncClient, edge: Edge):
    answer = await http.post("/v1/chat/completions", json={**ASKED, "user": "x" * 1000})
    assert (answer.status_code, answer.json()["error"]["code"]) == (413, "request_too_large")


def test_one_key_s_use_is_not_another_s(clock: Clock):
    allowances = Allowances(clock)
    one, two = Caller("key_1", requests_per_minute=1), Caller("key_2", requests_per_minute=1)
    allowances.of(one).let_in()
    allowances.of(two).let_in()
    with pytest.raises(RateLimited):
        allowances.of(one).let_in()
    allowances.of(Caller("key_1", requests_per_minute=5)).let_in()


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0ms"), (0.12, "120ms"), (1, "1s"), (1.5, "1.5s"), (59.999, "1m0s"), (360, "6m0s")]
)
def test_durations_are_written_as_openai_does(seconds: float, text: str):
    assert duration(seconds) == text


async def talk(site: Site, *pieces: bytes) -> bytes:
    """What the gateway says, to its end, to a client that says just that and no more."""
    reader, writer = await asyncio.open_connection("127.0.0.1", site.port)
    try:
        for piece in pieces:
            writer.write(piece)
            await writer.drain()
        async with asyncio.timeout(DEADLINE_S):
            return await reader.read()
    finally:
        writer.close()


HEAD = b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n"


@pytest.mark.parametrize("edge", [Edge(body_seconds=0.1)])
async def test_a_body_that_does_not_come_is_not_waited_for(site: Site, edge: Edge):
    said = await talk(site, HEAD, b"{")
    assert said.startswith(b"HTTP/1.1 408 ")
    assert json.loads(said.partition(b"\r\n\r\n")[2])["error"]["code"] == "request_timeout"


@pytest.mark.parametrize("pieces", [(), (b"GET /health HT",), (b"GET / HTTP/1.1\r\nHost: x\r\n", b"X: 1\r\n")])
async def test_a_head_that_does_not_come_is_not_waited_for(
    site: Site, monkeypatch: pytest.MonkeyPatch, pieces: tuple[bytes, ...]
):
    monkeypatch.setattr(connection, "HEAD_S", 0.1)
    assert await talk(site, *pieces) == b""


async def test_a_client_that_does_not_read_is_not_kept(site: Site, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(connection, "SEND_S", 0.2)
    loop = asyncio.get_running_loop()
    with closing(socket.create_connection(("127.0.0.1", site.port))) as client:
        client.setblocking(False)
        with suppress(ConnectionError):  # it asks for more and more, till it is cut
            async with asyncio.timeout(DEADLINE_S):
                while True:
                    await loop.sock_sendall(client, b"GET / HTTP/1.1\r\nHost: x\r\n\r\n" * 1000)
    assert not site.server.server_state.connections


async def test_garbage_after_an_answer_ends_the_connection(site: Site, caplog: pytest.LogCaptureFixture):
    reader, writer = await asyncio.open_connection("127.0.0.1", site.port)
    writer.write(b"POST /none HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n")
    async with asyncio.timeout(DEADLINE_S):
        assert (await reader.readuntil(b"}}")).startswith(b"HTTP/1.1 401 ")
        writer.write(b"ZZZZ\r\n")
        assert await reader.read() == b""
    writer.close()
    assert not [each for each in caplog.records if each.levelname == "ERROR"]


async def test_what_is_no_http_is_told_in_the_shape_of_all_errors(site: Site):
    said = await talk(site, b"EHLO mail.example\r\n\r\n")
    assert said.startswith(b"HTTP/1.1 400 ")
    assert json.loads(said.partition(b"\r\n\r\n")[2])["error"]["type"] == "invalid_request_error"
