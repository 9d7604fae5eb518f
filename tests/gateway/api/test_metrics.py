"""`/metrics`: what the counters say of requests that ended well, badly, or were left."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from gateway.generation.completion import ServedModel
from shared.errors import HopFailed
from shared.types import BlockRange, PeerId
from tests.gateway.api.conftest import DEADLINE_S, MODEL, Site
from tests.gateway.api.test_refusals import FailingEngine
from tests.gateway.local_engine import LocalEngine

PATH = "/v1/chat/completions"
BODY: dict[str, Any] = {
    "model": MODEL,
    "messages": [{"role": "user", "content": "Hi"}],
    "temperature": 0,
    "max_tokens": 20,
}


async def values(http: httpx.AsyncClient) -> dict[tuple[str, ...], float]:
    """What `/metrics` says now, by a sample's name and its labels' values; without buckets."""
    response = await http.get("/metrics")
    assert response.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    samples = [each for family in text_string_to_metric_families(response.text) for each in family.samples]
    return {(each.name, *each.labels.values()): each.value for each in samples if "le" not in each.labels}


async def ended(http: httpx.AsyncClient) -> dict[tuple[str, ...], float]:
    """Outcomes of all requests by model and outcome, once none is in progress."""
    async with asyncio.timeout(DEADLINE_S):
        while (now := await values(http))["corolla_requests_in_progress",]:
            pass
    return {key[1:]: value for key, value in now.items() if key[0] == "corolla_requests_total"}


@pytest.mark.parametrize("stream", [False, True])
async def test_an_answer_counts_its_tokens_and_times(http: httpx.AsyncClient, model: ServedModel, stream: bool):
    assert (await http.post(PATH, json={**BODY, "stream": stream})).status_code == 200
    assert await ended(http) == {(MODEL, "ok"): 1}
    now = await values(http)
    prompt = await model.tokenizer.encode_chat(BODY["messages"])
    assert now["corolla_prompt_tokens_total", MODEL] == len(prompt)
    assert now["corolla_completion_tokens_total", MODEL] == 20
    first, later = (
        now["corolla_time_to_first_token_seconds_count", MODEL],
        now["corolla_inter_token_seconds_count", MODEL],
    )
    assert first == 1
    assert 10 < later < 20  # text that is held back comes with the next piece; the first piece may have two tokens
    assert 0 < now["corolla_inter_token_seconds_sum", MODEL] < DEADLINE_S


async def test_refusals_are_counted_by_what_the_client_is_told(site: Site, http: httpx.AsyncClient):
    site.shelf.holes["half/model"] = BlockRange(8, 16)
    for change in (
        {"model": "no/such"},
        {"model": "half/model"},
        {"audio": {"voice": "alloy"}},
        {"temperature": "hot"},
    ):
        await http.post(PATH, json={**BODY, **change})
    await http.post(PATH, json={**BODY, "messages": [{"role": "user", "content": "x" * 600}]})
    assert await ended(http) == {
        ("", "model_not_found"): 1,
        ("half/model", "no_route"): 1,
        ("", "unsupported_parameter"): 1,
        ("", "invalid_request"): 1,
        (MODEL, "context_length_exceeded"): 1,
    }


@pytest.mark.parametrize(
    ("failure", "outcome"),
    [(HopFailed(PeerId("12D3KooX"), "lost", "the link ended"), "hop_failed"), (RuntimeError("?"), "internal_error")],
)
@pytest.mark.parametrize("stream", [False, True])
async def test_an_answer_that_fails_midway_counts_once(
    site: Site, http: httpx.AsyncClient, model: ServedModel, engine: LocalEngine,
    failure: Exception, outcome: str, stream: bool,
):  # fmt: skip
    site.serve(model, FailingEngine(engine, 5, failure))
    await http.post(PATH, json={**BODY, "stream": stream})
    assert await ended(http) == {(MODEL, outcome): 1}
    assert (await values(http))["corolla_completion_tokens_total", MODEL] == 5


async def test_a_client_that_leaves_is_told_apart(http: httpx.AsyncClient, engine: LocalEngine):
    body = {**BODY, "stream": True, "max_tokens": 450, "seed": 1, "temperature": 1}
    async with http.stream("POST", PATH, json=body) as response:
        await anext(response.aiter_lines())
        assert (await values(http))["corolla_requests_in_progress",] == 1
    assert await ended(http) == {(MODEL, "client_gone"): 1}
