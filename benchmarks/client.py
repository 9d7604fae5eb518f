"""A client of an OpenAI endpoint that notes when each piece of an answer arrives. Knows nothing of Corolla."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import httpx

Message = Mapping[str, str]
Moment = Callable[[], Awaitable[None]]
"""Called when something has happened; the stream that made it happen waits meanwhile."""

CONNECT_S = 10
SILENCE_S = 300  # keep-alive comments count as bytes: this is for an endpoint that hangs


class EndpointFailed(Exception):
    """The endpoint cannot be reached, refused a request, or ended a stream with an error; its own words."""


@dataclass(frozen=True, slots=True)
class Answer:
    """One streamed answer. Times are of `time.perf_counter`, tokens those that the endpoint's usage counts.

    `arrivals` are the times of the chunks with text: one a token, but for tokens that end amid a character. An end
    token has no text: `ended` is when the finish reason came.
    """

    prompt_tokens: int
    tokens: int
    sent: float
    arrivals: tuple[float, ...]
    ended: float

    @property
    def first(self) -> float:
        return self.arrivals[0] if self.arrivals else self.ended

    @property
    def first_token_s(self) -> float:
        return self.first - self.sent

    @property
    def rate(self) -> float:
        """Tokens a second after the first. Raises EndpointFailed when there are none."""
        if self.tokens < 2:
            raise EndpointFailed("an answer ended with its first token, so there is no rate: try another model")
        return (self.tokens - 1) / (self.ended - self.first)

    @property
    def gaps_s(self) -> list[float]:
        return [later - earlier for earlier, later in pairwise(self.arrivals)]

    def tokens_between(self, start: float, end: float) -> float:
        """Tokens that came in the time `(start, end]`."""
        chunks = sum(start < arrival <= end for arrival in self.arrivals)
        return chunks * self.tokens / max(1, len(self.arrivals))


class Endpoint:
    """One model behind `URL/v1`, asked greedily. An asynchronous context manager; `ask` raises EndpointFailed."""

    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/").removesuffix("/v1")
        self.model = ""
        timeout = httpx.Timeout(SILENCE_S, connect=CONNECT_S)
        limits = httpx.Limits(max_connections=None)
        self.http = httpx.AsyncClient(base_url=self.url, timeout=timeout, limits=limits)

    async def __aenter__(self) -> Endpoint:
        return self

    async def __aexit__(self, *_error: object) -> None:
        await self.http.aclose()

    async def choose(self, model: str | None) -> None:
        """Ask this model from now on; without one, the first that is served."""
        served = [each["id"] for each in (await self._get("/v1/models"))["data"]]
        if not served or (model is not None and model not in served):
            raise EndpointFailed(f"{self.url} serves {served or 'no model'}: --model must be one of them")
        self.model = model or served[0]

    async def ask(
        self, messages: list[Message], max_tokens: int, begun: Moment | None = None, done: Moment | None = None
    ) -> Answer:
        """The whole answer; `begun` is called at its first token, `done` at its last one."""
        body = {
            "model": self.model,
            "messages": messages,
            "temperature": 0,
            "max_tokens": max_tokens,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        sent, ended, arrivals, usage = time.perf_counter(), 0.0, [], {}
        async for chunk in self.chunks(body):
            if chunk["choices"] and chunk["choices"][0]["delta"].get("content"):
                arrivals.append(time.perf_counter())
                if begun and len(arrivals) == 1:
                    await begun()
            if chunk["choices"] and chunk["choices"][0]["finish_reason"]:
                ended = time.perf_counter()
                if done:
                    await done()
            usage = chunk.get("usage") or usage
        if not (ended and usage):
            raise EndpointFailed(f"{self.url} ended a stream without a finish reason or without usage")
        return Answer(usage["prompt_tokens"], usage["completion_tokens"], sent, tuple(arrivals), ended)

    async def chunks(self, body: Mapping[str, Any]) -> AsyncIterator[dict[str, Any]]:
        """The chunks that a request's stream consists of. Raises EndpointFailed, with an error event's message too."""
        async with self._reached(), self.http.stream("POST", "/v1/chat/completions", json=body) as response:
            async for chunk in _chunks(response):
                yield chunk

    async def _get(self, path: str) -> Any:
        async with self._reached():
            response = await self.http.get(path)
            await _check(response)
            return response.json()

    @asynccontextmanager
    async def _reached(self) -> AsyncIterator[None]:
        try:
            yield
        except httpx.TransportError as error:
            reason = str(error) or type(error).__name__
            raise EndpointFailed(f"{self.url} cannot be reached: {reason}; does a gateway run there?") from error


async def _chunks(response: httpx.Response) -> AsyncIterator[dict[str, Any]]:
    await _check(response)
    async for line in response.aiter_lines():
        if not line.startswith("data: {"):  # comments, `[DONE]` and the lines between events
            continue
        chunk = json.loads(line.removeprefix("data: "))
        if "error" in chunk:
            raise EndpointFailed(f"a stream ended with an error: {chunk['error'].get('message')}")
        yield chunk


async def _check(response: httpx.Response) -> None:
    if response.status_code != httpx.codes.OK:
        text = (await response.aread()).decode(errors="replace")
        raise EndpointFailed(f"{response.url} answered {response.status_code}: {text[:500]}")
