"""Stored responses: read, listed and deleted by their owners."""

from __future__ import annotations

from typing import Any

import httpx
import pytest
from openai import AsyncOpenAI, NotFoundError
from openai.types.responses import Response, ResponseItem, ResponseItemList
from pydantic import TypeAdapter

from gateway.store.responses import ResponseStore, StoredResponse
from tests.gateway.api.conftest import MODEL

GREEDY: dict[str, Any] = {"model": MODEL, "temperature": 0, "max_output_tokens": 4}
ITEMS: list[Any] = [
    {"role": "user", "content": "What is the weather?"},
    {"type": "reasoning", "summary": [], "content": [{"type": "reasoning_text", "text": "Look it up."}]},
    {"type": "function_call", "call_id": "call_1", "name": "weather", "arguments": "{}"},
    {"type": "function_call_output", "call_id": "call_1", "output": [{"type": "input_text", "text": "Rain."}]},
    {"role": "assistant", "content": "It rains."},
    {"role": "user", "content": "Thanks."},
]


async def test_a_response_is_read_as_it_was_given_and_deleted(http: httpx.AsyncClient):
    given = (await http.post("/v1/responses", json={**GREEDY, "input": "Hi", "text": {"format": None}})).json()
    path = f"/v1/responses/{given['id']}"
    assert (await http.get(path)).json() == given
    deleted = (await http.delete(path)).json()
    assert deleted == {"id": given["id"], "object": "response", "deleted": True}
    for answer in (await http.get(path), await http.delete(path), await http.get(f"{path}/input_items")):
        assert (answer.status_code, answer.json()["error"]["code"]) == (404, "not_found")


async def test_openais_package_reads_and_deletes(openai: AsyncOpenAI):
    given = await openai.responses.create(**GREEDY, input="Hi")
    assert await openai.responses.retrieve(given.id) == given
    await openai.responses.delete(given.id)
    with pytest.raises(NotFoundError):
        await openai.responses.retrieve(given.id)


async def test_others_and_those_not_stored_are_not_found(openai: AsyncOpenAI, store: ResponseStore):
    await store.put(StoredResponse("resp_other", "key_2", 0, MODEL, None, {"id": "resp_other"}, []))
    mine = await openai.responses.create(**GREEDY, input="Hi", store=False)
    for id in ("resp_other", mine.id):
        for ask in (openai.responses.retrieve, openai.responses.delete, openai.responses.cancel):
            with pytest.raises(NotFoundError):
                await ask(id)
    assert await store.get("resp_other", "key_2") is not None


async def test_input_items_are_listed_in_pages(openai: AsyncOpenAI, http: httpx.AsyncClient):
    given = await openai.responses.create(**GREEDY, input=ITEMS)
    path = f"/v1/responses/{given.id}/input_items"
    whole = (await http.get(path, params={"order": "asc"})).json()
    ResponseItemList.model_validate(whole)
    TypeAdapter(list[ResponseItem]).validate_python(whole["data"])
    assert [item["type"] for item in whole["data"]] == [item.get("type", "message") for item in ITEMS]
    first = (await http.get(path, params={"limit": 4})).json()
    rest = (await http.get(path, params={"limit": 4, "after": first["last_id"]})).json()
    assert [*first["data"], *rest["data"]] == whole["data"][::-1]  # the newest come first
    assert (first["has_more"], rest["has_more"]) == (True, False)
    assert [item.id async for item in openai.responses.input_items.list(given.id, limit=2)] == [
        item["id"] for item in whole["data"][::-1]
    ]


async def test_input_items_are_those_of_earlier_turns_too(openai: AsyncOpenAI):
    first = await openai.responses.create(**GREEDY, input="Hi")
    second = await openai.responses.create(**GREEDY, input="And?", previous_response_id=first.id)
    heard: list[Any] = [item.to_dict() async for item in openai.responses.input_items.list(second.id, order="asc")]
    assert [item["role"] for item in heard] == ["user", "assistant", "user"]
    assert heard[1] == first.output[0].to_dict()
    assert heard[2]["content"] == [{"type": "input_text", "text": "And?"}]


async def test_input_items_are_those_that_are_stored_still(openai: AsyncOpenAI):
    first = await openai.responses.create(**GREEDY, input="1")
    second = await openai.responses.create(**GREEDY, input="2", previous_response_id=first.id)
    third = await openai.responses.create(**GREEDY, input="3", previous_response_id=second.id)
    await openai.responses.delete(first.id)
    heard: list[Any] = [item.to_dict() async for item in openai.responses.input_items.list(third.id, order="asc")]
    assert [item["role"] for item in heard] == ["user", "assistant", "user"]
    assert heard[0]["content"] == [{"type": "input_text", "text": "2"}]


async def test_a_page_that_is_not_one_is_refused(openai: AsyncOpenAI, http: httpx.AsyncClient):
    given = await openai.responses.create(**GREEDY, input="Hi")
    for query in ("limit=0", "limit=101", "limit=x", "limit=²", "order=up", "after=msg_1"):
        answer = await http.get(f"/v1/responses/{given.id}/input_items?{query}")
        assert (answer.status_code, answer.json()["error"]["param"]) == (400, query.partition("=")[0])


async def test_what_only_background_responses_can_is_refused(openai: AsyncOpenAI, http: httpx.AsyncClient):
    given = await openai.responses.create(**GREEDY, input="Hi")
    cancelled = await http.post(f"/v1/responses/{given.id}/cancel")
    assert (cancelled.status_code, cancelled.json()["error"]["code"]) == (400, "not_cancellable")
    assert "background" in cancelled.json()["error"]["message"]
    streamed = await http.get(f"/v1/responses/{given.id}", params={"stream": "true"})
    assert (streamed.status_code, streamed.json()["error"]["param"]) == (400, "stream")
    assert Response.model_validate((await http.get(f"/v1/responses/{given.id}?stream=false")).json()) == given
