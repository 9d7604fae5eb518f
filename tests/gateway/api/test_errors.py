"""Errors that FastAPI and the store raise, as clients see them."""

from __future__ import annotations

import httpx
from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse

from gateway.api.errors import reply_to
from shared.errors import StoreUnavailable


async def test_a_parameter_of_the_wrong_type_is_a_400_that_names_it_and_not_its_value():
    app = FastAPI()

    @app.get("/items")
    async def items(limit: int) -> int:
        return limit

    @app.exception_handler(RequestValidationError)
    async def refuse(_request: object, error: RequestValidationError) -> JSONResponse:
        reply = reply_to(error)
        return JSONResponse(reply.body, reply.status)

    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client:
        answer = await client.get("/items", params={"limit": "s3cret"})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "limit")
    assert "s3cret" not in answer.text


def test_a_database_that_does_not_answer_is_worth_another_try():
    reply = reply_to(StoreUnavailable("try again"))
    assert (reply.status, reply.code) == (503, "store_unavailable")
    assert int(reply.headers["Retry-After"]) > 0
