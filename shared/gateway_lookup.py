"""Finding a swarm by a gateway's URL: its `/health`, which needs no key, says where to join."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

import httpx
import msgspec

from shared.addresses import join_address
from shared.errors import ProtocolError, UsageError

logger = logging.getLogger(__name__)

FIRST_RETRY_S = 0.2
LAST_RETRY_S = 10.0
TIMEOUT_S = 5.0
ANSWER_LIMIT = 16 * 1024 * 1024
ADDRESSES_LIMIT = 16


class _Health(msgspec.Struct):
    join: list[str]


def is_url(where: str) -> bool:
    return where.startswith(("http://", "https://"))


def health_url(where: str) -> httpx.URL:
    """`/health` of the gateway whose URL, maybe with a path such as `/v1`, was given. Raises UsageError."""
    try:
        url = httpx.URL(where)
    except httpx.InvalidURL as error:
        raise UsageError(f"--join {where!r} is not a URL: {error}") from error
    if not url.host:
        raise UsageError(f"--join {where!r} names no host")
    return url.copy_with(path="/health", query=None, fragment=None)


async def look_up(
    where: str,
    found: Callable[[tuple[str, ...]], None],
    until_missed: Callable[[tuple[str, ...]], Awaitable[None]],
) -> None:
    """For ever: ask the gateway for addresses, tell `found`, and ask again when the nodes behind them are missed."""
    url = health_url(where)
    delay, told = FIRST_RETRY_S, False
    async with httpx.AsyncClient(timeout=TIMEOUT_S, follow_redirects=False) as client:
        while True:
            try:
                addresses = await _ask(client, url)
                found(addresses)
            except (httpx.HTTPError, ProtocolError) as error:
                if not told:
                    logger.warning("%s does not yet say where to join (%s); it is asked again and again", url, error)
                    told = True
                await asyncio.sleep(delay)
                delay = min(2 * delay, LAST_RETRY_S)
            else:
                delay, told = FIRST_RETRY_S, False
                await until_missed(addresses)
                await asyncio.sleep(delay)


async def _ask(client: httpx.AsyncClient, url: httpx.URL) -> tuple[str, ...]:
    """Raises httpx.HTTPError, ProtocolError."""
    answer = bytearray()
    async with client.stream("GET", url) as response:
        if response.status_code != httpx.codes.SERVICE_UNAVAILABLE:  # so says a gateway that still waits for peers
            response.raise_for_status()
        async for piece in response.aiter_bytes():
            answer += piece
            if len(answer) > ANSWER_LIMIT:
                raise ProtocolError("the answer is too long")
    try:
        join = msgspec.json.decode(bytes(answer), type=_Health).join[:ADDRESSES_LIMIT]
        addresses = tuple(str(join_address(each)) for each in join)
    except (msgspec.DecodeError, ValueError, RecursionError, UsageError) as error:
        raise ProtocolError(f"not a gateway's answer: {error}") from error
    if not addresses:
        raise ProtocolError("it names no address")
    return addresses
