"""The events of a streamed response: each as OpenAI's package knows it, in OpenAI's order."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Sequence
from itertools import groupby
from typing import Any

import httpx
import pytest
from openai import APIError, AsyncOpenAI
from openai.types.responses import ResponseStreamEvent
from pydantic import TypeAdapter

from gateway.generation.completion import ServedModel
from gateway.generation.sampling import SamplingParams
from gateway.generation.tokens import OnOpen, Token
from shared.errors import HopFailed
from shared.types import PeerId
from tests.gateway.api.conftest import MODEL, Site
from tests.gateway.local_engine import LocalEngine

GREEDY: dict[str, Any] = {"model": MODEL, "input": "Hi", "temperature": 0, "max_output_tokens": 12}
KNOWN: TypeAdapter[Any] = TypeAdapter(ResponseStreamEvent)


async def events(http: httpx.AsyncClient, **body: Any) -> list[dict[str, Any]]:
    """The data of all events, each checked against the type of its name."""
    async with http.stream("POST", "/v1/responses", json={**GREEDY, "stream": True, **body}) as response:
        assert response.status_code == 200, await response.aread()
        assert response.headers["content-type"].startswith("text/event-stream")
        text = (await response.aread()).decode()
    told: list[dict[str, Any]] = []
    for event in text.removesuffix("\n\n").split("\n\n"):
        name, data = event.split("\n")
        told.append(json.loads(data.removeprefix("data: ")))
        assert name == f"event: {told[-1]['type']}"
        assert type(KNOWN.validate_python(told[-1])).model_fields["type"].annotation.__args__ == (told[-1]["type"],)
    assert [event["sequence_number"] for event in told] == list(range(len(told)))
    return told


def names(told: Sequence[dict[str, Any]]) -> list[str]:
    """The events' names, of several alike in a row only one."""
    return [name.removeprefix("response.") for name, _ in groupby(event["type"] for event in told)]


async def test_the_events_of_a_text_come_in_openais_order(http: httpx.AsyncClient):
    told = await events(http)
    assert names(told) == [
        "created",
        "in_progress",
        "output_item.added",
        "content_part.added",
        "output_text.delta",
        "output_text.done",
        "content_part.done",
        "output_item.done",
        "incomplete",
    ]
    deltas = [event["delta"] for event in told if event["type"] == "response.output_text.delta"]
    assert len(deltas) > 3
    *_, text, part, item, last = told
    assert text["text"] == part["part"]["text"] == item["item"]["content"][0]["text"] == "".join(deltas)
    assert last["response"]["output"] == [item["item"]]
    assert {event.get("item_id", item["item"]["id"]) for event in told} == {item["item"]["id"]}


async def test_a_stream_comes_to_the_same_response(http: httpx.AsyncClient, openai: AsyncOpenAI):
    asked: dict[str, Any] = {"include": ["message.output_text.logprobs"], "top_logprobs": 1}
    last = (await events(http, **asked))[-1]["response"]
    whole = (await http.post("/v1/responses", json={**GREEDY, **asked})).json()
    for each in (last, whole):
        each["id"] = each["output"][0]["id"] = each["created_at"] = None
    assert last == whole
    assert len(last["output"][0]["content"][0]["logprobs"]) == 12


async def test_each_delta_has_the_probabilities_of_its_tokens(http: httpx.AsyncClient):
    told = await events(http, top_logprobs=1)
    entries = [entry for event in told if event["type"].endswith("text.delta") for entry in event["logprobs"]]
    assert entries == told[-4]["logprobs"]
    assert len(entries) == 12


async def test_openais_own_stream_helper_reads_it(openai: AsyncOpenAI):
    async with openai.responses.stream(**GREEDY, extra_body=SOON) as stream:
        texts = [event.delta async for event in stream if event.type == "response.output_text.delta"]
        response = await stream.get_final_response()
    assert response.status == "completed"
    assert response.output_text == "".join(texts)
    assert (await openai.responses.retrieve(response.id)).output_text == response.output_text


SOON = {"logit_bias": {"258": 100}, "min_tokens": 3}


class Breaking(LocalEngine):
    """Fails after five tokens, as a chain does that cannot be repaired."""

    async def generate(
        self, prompt: list[int], params: SamplingParams, on_open: OnOpen = lambda numerics: None
    ) -> AsyncGenerator[Token, None]:
        left = 5
        async for token in super().generate(prompt, params, on_open):
            yield token
            left -= 1
            if not left:
                raise HopFailed(PeerId("12D3KooWSomebody"), "gone", "it has left")


@pytest.fixture
def breaking(site: Site, model: ServedModel, engine: LocalEngine) -> None:
    site.serve(model, Breaking(engine.model))


@pytest.mark.usefixtures("breaking")
async def test_a_failure_midway_is_told_and_stored(http: httpx.AsyncClient):
    *_, failed, error = await events(http)
    response = failed["response"]
    assert (failed["type"], response["status"]) == ("response.failed", "failed")
    assert response["error"] == {"code": "server_error", "message": error["message"]}
    assert (error["type"], error["code"]) == ("error", "hop_failed")
    assert "it has left" in error["message"]
    assert [item["status"] for item in response["output"]] == ["incomplete"]
    assert response["usage"]["output_tokens"] == 5
    assert (await http.get(f"/v1/responses/{response['id']}")).json() == response
    continued = await http.post("/v1/responses", json={**GREEDY, "previous_response_id": response["id"]})
    assert (continued.status_code, continued.json()["error"]["param"]) == (400, "previous_response_id")


@pytest.mark.usefixtures("breaking")
async def test_a_failure_midway_raises_in_openais_package(openai: AsyncOpenAI):
    seen: list[str] = []

    async def read() -> None:
        async for event in await openai.responses.create(**GREEDY, stream=True):
            seen.append(event.type)  # noqa: PERF401  what comes before the error counts

    with pytest.raises(APIError) as raised:
        await read()
    assert raised.value.code == "hop_failed"
    assert seen[-1] == "response.failed"


@pytest.mark.usefixtures("breaking")
async def test_a_failure_of_a_response_that_is_not_streamed_is_a_status(http: httpx.AsyncClient):
    answer = await http.post("/v1/responses", json=GREEDY)
    assert (answer.status_code, answer.json()["error"]["code"]) == (502, "hop_failed")


async def test_a_client_that_leaves_frees_the_cache(site: Site, engine: LocalEngine, http: httpx.AsyncClient):
    body = {**GREEDY, "max_output_tokens": 400, "stream": True, "logit_bias": {"258": -100}}
    async with http.stream("POST", "/v1/responses", json=body) as response:
        await anext(response.aiter_lines())
    async with asyncio.timeout(10):
        await engine.ended.wait()
    assert engine.running == 0
    assert engine.made < 400
