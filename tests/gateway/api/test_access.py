"""Who is let in: by a key, or from this machine."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from openai import AsyncOpenAI, AuthenticationError

from gateway.api.edge import Edge
from gateway.store.keyring import KeyRing
from gateway.store.store import Store
from tests.gateway.api.conftest import DEADLINE_S, MODEL, Site

ASKED = {"model": MODEL, "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 2}


@pytest.fixture
def kept(tmp_path: Path) -> Iterator[Store]:
    store = Store.open(None, tmp_path)
    yield store
    store.close()


@pytest.fixture
def edge(kept: Store) -> Edge:
    return Edge(keys=KeyRing(kept.keys))


async def test_a_key_opens_what_is_closed_without(site: Site, kept: Store):
    _, secret = await kept.keys.create("laptop")
    async with AsyncOpenAI(base_url=f"{site.url}/v1", api_key=secret, max_retries=0, timeout=DEADLINE_S) as client:
        assert [each.id async for each in client.models.list()] == [MODEL]
        assert (await client.chat.completions.create(**ASKED)).usage
        with pytest.raises(AuthenticationError) as refused:
            await client.with_options(api_key=secret[:-1]).chat.completions.create(**ASKED)
    assert refused.value.code == "invalid_api_key"
    assert refused.value.request_id


@pytest.mark.parametrize(
    "path",
    ["/v1/models", "/v1//models", "/metrics", "/swarm", "/swarm/events", "/openapi.json", "/none", "/health/"],
)
async def test_all_else_than_the_page_and_health_is_closed(http: httpx.AsyncClient, path: str):
    answer = await http.get(path)
    assert (answer.status_code, answer.headers["www-authenticate"]) == (401, "Bearer")
    assert answer.json()["error"]["code"] == "invalid_api_key"
    assert answer.headers["x-request-id"]


@pytest.mark.parametrize("path", ["/", "/health"])
async def test_the_page_and_health_are_open(http: httpx.AsyncClient, path: str):
    assert (await http.get(path)).status_code == 200


@pytest.mark.parametrize(
    "sent",
    ["", "Bearer", "Basic abc", "Bearer sk-corolla-no", "Bearer " + "x" * 10_000, "Bearer \xff"],
)
async def test_what_is_no_key_is_refused(http: httpx.AsyncClient, sent: str):
    answer = await http.post("/v1/chat/completions", json=ASKED, headers={b"Authorization": sent.encode("latin-1")})
    assert (answer.status_code, answer.json()["error"]["type"]) == (401, "invalid_request_error")


async def test_a_revoked_key_is_no_key(http: httpx.AsyncClient, kept: Store):
    key, secret = await kept.keys.create("laptop")
    await kept.keys.revoke(key.id)
    assert (await http.get("/v1/models", headers={"Authorization": f"Bearer {secret}"})).status_code == 401


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("127.0.0.1:8000", 200), ("localhost", 200), ("LOCALHOST:80", 200), ("[::1]:8000", 200), ("app.localhost", 200),
        ("box.lan:8000", 200), ("evil.example", 403), ("127.0.0.1.evil.example", 403), ("", 403),
    ],
)  # fmt: skip
@pytest.mark.parametrize("edge", [Edge(host_names=frozenset(("box.lan",)))])
async def test_a_gateway_for_this_machine_is_called_by_its_own_name(
    http: httpx.AsyncClient, edge: Edge, host: str, status: int
):
    answer = await http.get("/v1/models", headers={"Host": host})
    assert answer.status_code == status
    if status == 403:
        assert answer.json()["error"]["code"] == "host_not_allowed"
        assert "--require-keys" in answer.json()["error"]["message"]
        assert (await http.get("/health", headers={"Host": host})).status_code == 200  # peers ask it


async def test_every_answer_has_openai_s_headers(http: httpx.AsyncClient):
    answers = [await http.get(path) for path in ("/", "/v1/models", "/none")]
    answers.append(await http.post("/v1/chat/completions", json=ASKED))
    for answer in answers:
        assert answer.headers["x-request-id"].startswith("req_")
        assert answer.headers["openai-processing-ms"].isdecimal()
        assert answer.headers["openai-version"] == "2020-10-01"
