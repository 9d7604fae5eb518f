"""Which web pages may call the gateway."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from gateway.api.edge import Edge
from gateway.store.keyring import KeyRing
from gateway.store.store import Store

PAGE = "https://chat.example.org"
ASKS = {
    "Origin": PAGE,
    "Access-Control-Request-Method": "POST",
    "Access-Control-Request-Headers": "authorization,content-type,x-stainless-lang",
}


@pytest.mark.parametrize("edge", [Edge(cors_origins=(PAGE,))])
async def test_a_page_that_is_named_may_call_and_read(http: httpx.AsyncClient, edge: Edge):
    asked = await http.options("/v1/chat/completions", headers=ASKS)
    assert (asked.status_code, asked.headers["access-control-allow-origin"]) == (200, PAGE)
    assert "authorization" in asked.headers["access-control-allow-headers"]
    refused = await http.post("/v1/chat/completions", json={}, headers={"Origin": PAGE})
    assert (refused.status_code, refused.headers["access-control-allow-origin"]) == (400, PAGE)
    assert {"x-request-id", "x-ratelimit-remaining-tokens"} <= set(
        refused.headers["access-control-expose-headers"].split(", ")
    )
    assert "access-control-allow-credentials" not in refused.headers


@pytest.mark.parametrize("edge", [Edge(cors_origins=(PAGE,))])
@pytest.mark.parametrize("origin", ["https://evil.example", "http://chat.example.org", f"{PAGE}.evil.example", "null"])
async def test_other_pages_may_not(http: httpx.AsyncClient, edge: Edge, origin: str):
    assert (await http.options("/v1/models", headers={**ASKS, "Origin": origin})).status_code == 400
    assert "access-control-allow-origin" not in (await http.get("/v1/models", headers={"Origin": origin})).headers


async def test_no_page_may_by_default(http: httpx.AsyncClient):
    asked = await http.options("/v1/chat/completions", headers=ASKS)
    assert asked.status_code == 405
    assert "access-control-allow-origin" not in asked.headers


class TestWithKeys:
    """A preflight cannot carry a key."""

    @pytest.fixture
    def edge(self, tmp_path: Path) -> Iterator[Edge]:
        store = Store.open(None, tmp_path / "keys")
        yield Edge(keys=KeyRing(store.keys), cors_origins=("*",))
        store.close()

    async def test_a_preflight_needs_no_key_and_a_refusal_can_be_read(self, http: httpx.AsyncClient):
        assert (await http.options("/v1/chat/completions", headers=ASKS)).status_code == 200
        refused = await http.post("/v1/chat/completions", json={}, headers={"Origin": PAGE})
        assert (refused.status_code, refused.headers["access-control-allow-origin"]) == (401, "*")
