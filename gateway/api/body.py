"""Request bodies: read within a limit, parsed as JSON, checked against a schema."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeVar

import pydantic_core
from fastapi import HTTPException, Request
from pydantic import BaseModel, ValidationError

from shared.errors import InvalidRequest

Schema = TypeVar("Schema", bound=BaseModel)
Result = TypeVar("Result")

LARGE_BYTES = 256_000  # a larger body is read in a thread: meanwhile the streams of others go on


async def read_json(
    request: Request, limit_bytes: int, within_s: float, made: Callable[[dict[str, Any]], Result]
) -> Result:
    """What is `made` of the body, which is a JSON object. Raises HTTPException 408 or 413, InvalidRequest, as it does.

    What is made of a large body is made in a thread.
    """
    try:
        async with asyncio.timeout(within_s):
            body = await _read(request, limit_bytes)
    except TimeoutError as error:
        reason = f"the body did not arrive within {within_s:g} s"
        raise HTTPException(408, reason, headers={"Connection": "close"}) from error
    # Also the guard against other web pages: a browser sends JSON elsewhere only after asking, which is not allowed.
    content_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if content_type != "application/json":
        raise InvalidRequest(f"the Content-Type must be application/json, not {content_type[:80]!r}")
    if len(body) > LARGE_BYTES:
        return await asyncio.to_thread(lambda: made(_object(body)))
    return made(_object(body))


def check(schema: type[Schema], body: Mapping[str, Any], within: str = "") -> Schema:
    """The body, or the part of one that lies at `within`, as `schema` has it.

    Raises InvalidRequest that names the first field at fault.
    """
    try:
        return schema.model_validate(body)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        param = _path((within, *first["loc"]) if within else first["loc"])
        reason = str(first["ctx"]["error"]) if first["type"] == "value_error" else first["msg"]  # pyright: ignore[reportTypedDictNotRequiredAccess]
        raise InvalidRequest(f"{param}: {reason}" if param else reason, param or None) from error


def _object(body: bytes) -> dict[str, Any]:
    """Raises InvalidRequest."""
    try:
        with _no_collection():
            value = pydantic_core.from_json(body, allow_inf_nan=False)
    except ValueError as error:
        raise InvalidRequest(f"the body is not valid JSON: {error}") from error
    if not isinstance(value, dict):
        raise InvalidRequest("the body must be a JSON object")
    return value


@contextmanager
def _no_collection() -> Iterator[None]:
    """Parsing makes nothing that a collection could free, and holds the lock of all threads: 0.5 s instead of 4 s.

    Another thread that does the same at once may begin the collection again too early, which is only slower.
    """
    collects = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collects:
            gc.enable()


async def _read(request: Request, limit_bytes: int) -> bytes:
    """The raw body. What it claims to hold is checked at once, what it does hold while it comes."""
    claimed = request.headers.get("content-length", "0")
    if claimed.isdecimal() and int(claimed) > limit_bytes:
        raise _too_large(limit_bytes)
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > limit_bytes:
            raise _too_large(limit_bytes)
    return bytes(body)


def _too_large(limit_bytes: int) -> HTTPException:
    return HTTPException(413, f"the body is over the limit of {limit_bytes} bytes")


def _path(place: tuple[int | str, ...]) -> str:
    """`("messages", 0, "role")` as `messages[0].role`."""
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in place).removeprefix(".")
