"""Models, health, the swarm and the front page."""

from __future__ import annotations

import asyncio
import json
import re
from importlib.resources import files

import httpx
import openai as sdk
import pytest
from openai import AsyncOpenAI

from tests.gateway.api.conftest import DEADLINE_S, MODEL, Site


async def test_models_are_listed_and_found_by_ids_with_slashes(openai: AsyncOpenAI):
    (listed,) = (await openai.models.list()).data
    found = await openai.models.retrieve(MODEL)
    assert listed == found
    assert (found.id, found.object, found.created, found.owned_by) == (MODEL, "model", 1_700_000_000, "corolla")
    assert found.to_dict()["context_length"] == found.to_dict()["max_model_len"] == 512
    with pytest.raises(sdk.NotFoundError) as refused:
        await openai.models.retrieve("no/such/model")
    assert refused.value.code == "model_not_found"


@pytest.mark.parametrize("path", ["chat/completions", "completions", "embeddings", "responses"])
async def test_a_base_url_with_a_slash_at_its_end_will_do(http: httpx.AsyncClient, path: str):
    reply = await http.post(f"/v1//{path}", json={})
    assert (reply.status_code, reply.json()["error"]["param"]) == (400, "model")


@pytest.mark.parametrize("path", ["/v1//models", "//models"])
async def test_a_base_url_that_ends_with_a_slash_lists_models_too(site: Site, http: httpx.AsyncClient, path: str):
    response = await http.get(f"{site.url}{path}")
    assert response.request.url.raw_path == path.encode()
    assert response.json() == (await http.get("/v1/models")).json()


async def test_health_is_200_once_a_model_is_whole(site: Site, http: httpx.AsyncClient):
    response = await http.get("/health")
    assert response.status_code == 200
    assert response.json() == {"status": "ok", "models": {MODEL: {"blocks": 2, "covered": 2}}, "join": []}
    site.board.covered = 1
    response = await http.get("/health")
    assert (response.status_code, response.json()["status"]) == (503, "waiting")


async def test_the_swarm_is_shown_now_and_live(site: Site, http: httpx.AsyncClient):
    async with asyncio.timeout(DEADLINE_S), http.stream("GET", "/swarm/events") as response:
        lines = (line async for line in response.aiter_lines() if line)
        assert json.loads((await anext(lines)).removeprefix("data: "))["peers"] == []
        await site.board.announce()  # nothing new: no event
        await site.board.announce({"peer": "12D3KooX"})
        live = json.loads((await anext(lines)).removeprefix("data: "))
    assert live["peers"] == [{"peer": "12D3KooX"}]
    assert (await http.get("/swarm")).json() == live


async def test_every_request_has_an_id_of_its_own(http: httpx.AsyncClient):
    ids = {(await http.get(path)).headers["x-request-id"] for path in ("/", "/health", "/swarm", "/none", "/none")}
    assert len(ids) == 5


async def test_the_front_page_needs_nothing_from_elsewhere(http: httpx.AsyncClient):
    response = await http.get("/")
    assert response.headers["content-type"] == "text/html; charset=utf-8"
    assert response.text == (files("webui") / "static" / "index.html").read_text(encoding="utf-8")
    assert not re.search(r"<script|(?:src|href)=\"https?:", response.text)
    for link in re.findall(r'<a href="([^"]+)"', response.text):
        async with http.stream("GET", f"/{link}") as page:
            assert page.status_code == 200
