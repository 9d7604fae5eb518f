"""Bodies that are as large as they may be, and say nothing or too much."""

from __future__ import annotations

import asyncio
import json
import time
from typing import Any

import httpx
import pytest

from gateway.api.body import check
from gateway.api.chat.request import ChatRequest
from gateway.api.completions.request import CompletionRequest
from gateway.api.request_model import RequestModel
from gateway.api.responses.request import ResponsesRequest
from shared.errors import InvalidRequest
from tests.gateway.api.conftest import MODEL

MANY, LONG_S = 1_000_000, 2
SAID = {"role": "user", "content": "Hi"}


def with_parts(part: object) -> list[object]:
    return [{"role": "user", "content": [part] * 1000}] * 1000


@pytest.mark.parametrize(
    ("schema", "body", "param"),
    [
        (ChatRequest, {"messages": [1] * MANY}, "messages[0]"),
        (ChatRequest, {"messages": [{}] * MANY}, "messages[0].role"),
        (ChatRequest, {"messages": [SAID] * MANY}, "messages"),
        (ChatRequest, {"messages": with_parts({})}, "messages[0].content[0].type"),
        (ChatRequest, {"messages": [{"role": "user", "content": [{"type": "text", "text": ""}] * MANY}]},
         "messages[0].content"),
        (ChatRequest, {"messages": [SAID], "logit_bias": {str(id): "x" for id in range(MANY)}}, "logit_bias"),
        (CompletionRequest, {"prompt": ["x"] * MANY}, "prompt"),
        (CompletionRequest, {"prompt": [1] * (MANY + 1)}, "prompt"),
        (CompletionRequest, {"prompt": [[1] * 1000] * 1001}, "prompt"),
        (ResponsesRequest, {"input": [1] * MANY}, "input[0]"),
        (ResponsesRequest, {"input": "Hi", "include": [1] * MANY}, "include"),
        (ResponsesRequest, {"input": "Hi", "metadata": {str(key): 1 for key in range(MANY)}}, "metadata"),
    ],
)  # fmt: skip
def test_the_first_of_many_errors_is_enough(schema: type[RequestModel], body: dict[str, Any], param: str):
    started = time.process_time()
    with pytest.raises(InvalidRequest) as refused:
        check(schema, {"model": MODEL, **body})
    assert refused.value.param == param
    assert time.process_time() - started < LONG_S


async def test_others_are_answered_while_a_large_body_is_read(http: httpx.AsyncClient):
    parts = [{"role": "user", "content": [{"type": "text", "text": "x"}] * 500}] * 200
    body = json.dumps({"model": MODEL, "messages": parts, "temperature": 9})
    headers = {"Content-Type": "application/json"}
    asking = asyncio.create_task(http.post("/v1/chat/completions", content=body, headers=headers))
    answered = 0
    while not asking.done():
        assert (await http.get("/v1/models")).status_code == 200
        answered += 1
    assert asking.result().json()["error"]["param"] == "temperature"
    assert answered > 4  # by one thread, three are
