"""Streams that run all the time, each drawn from a seed; what came of them, token id by token id."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from itertools import pairwise
from random import Random
from typing import Any, Literal

from benchmarks.client import Endpoint, EndpointFailed
from benchmarks.prompts import Prompt, Prompts

SILENCE_S = 60.0
"""A stream that brings neither a token nor its end for so long hangs."""

SHORT, LONG = (24, 80), (200, 500)  # tokens of a prompt, at least and at most
LONG_SHARE, SAMPLED_SHARE = 0.25, 0.5
ANSWER = (24, 192)
TEMPERATURE = 0.8


@dataclass(frozen=True, slots=True)
class Request:
    """What one stream asks for; `temperature` 0 is greedy."""

    prompt: Prompt
    tokens: int
    temperature: float = 0.0
    seed: int = 0

    def body(self, model: str) -> dict[str, Any]:
        return {
            "model": model,
            "messages": self.prompt.messages,
            "max_tokens": self.tokens,
            "temperature": self.temperature,
            "seed": self.seed,
            "stream": True,
            "return_token_ids": True,
        }


@dataclass(slots=True)
class Stream:
    """One stream as its client saw it. Times are of `time.perf_counter`; an arrival is one piece with token ids."""

    number: int
    request: Request
    sent: float
    prompt_ids: list[int] = field(default_factory=list)
    ids: list[int] = field(default_factory=list)
    arrivals: list[float] = field(default_factory=list)
    finish: str | None = None
    end: Literal["whole", "error", "hung"] = "whole"
    reason: str = ""
    ended: float = 0.0

    @property
    def last_sign(self) -> float:
        return self.arrivals[-1] if self.arrivals else self.sent

    @property
    def gaps(self) -> list[tuple[float, float]]:
        """From when to when nothing came, between two pieces."""
        return list(pairwise(self.arrivals))

    def take(self, chunk: dict[str, Any]) -> bool:
        """A chunk of the answer; whether it brought tokens or the end."""
        self.prompt_ids = chunk.get("prompt_token_ids") or self.prompt_ids
        for choice in chunk["choices"]:
            self.finish = choice["finish_reason"] or self.finish
            if ids := choice.get("token_ids"):
                self.ids.extend(ids)
                self.arrivals.append(time.perf_counter())
                return True
        return self.finish is not None


Grown = Callable[[Stream], Awaitable[None]]
"""Called at each piece of a stream."""


async def run_stream(endpoint: Endpoint, number: int, request: Request, grown: Grown | None = None) -> Stream:
    """A request's stream to its end, whatever that is: never raises for it."""
    stream = Stream(number, request, time.perf_counter())
    try:
        async with asyncio.timeout(SILENCE_S) as silence:
            async for chunk in endpoint.chunks(request.body(endpoint.model)):
                if stream.take(chunk):
                    silence.reschedule(asyncio.get_running_loop().time() + SILENCE_S)
                    if grown:
                        await grown(stream)
        if stream.finish is None:
            raise EndpointFailed("a stream ended without a finish reason")
    except TimeoutError:
        stream.end, stream.reason = "hung", f"neither a token nor an end for {SILENCE_S:.0f} s"
    except EndpointFailed as error:
        stream.end, stream.reason = "error", str(error)
    stream.ended = time.perf_counter()
    return stream


class Streams:
    """Keeps so many streams running, each drawn from the seed by its number, and keeps what came of them."""

    def __init__(self, endpoint: Endpoint, prompts: Prompts, seed: int) -> None:
        self.ended: list[Stream] = []
        self._endpoint = endpoint
        self._prompts = prompts
        self._random = Random(f"streams {seed}")
        self._asked = 0

    async def run(self, at_once: int, stop: asyncio.Event) -> None:
        """Until `stop`; streams that run then are still awaited."""
        await asyncio.gather(*(self._one_after_the_other(stop) for _ in range(at_once)))

    async def _one_after_the_other(self, stop: asyncio.Event) -> None:
        while not stop.is_set():
            number, request = await self._draw()
            stream = await run_stream(self._endpoint, number, request)
            self.ended.append(stream)
            if stream.end != "whole" and not stream.arrivals:
                await asyncio.sleep(1)  # a gateway that refuses is not asked all the time

    async def _draw(self) -> tuple[int, Request]:
        random, number = self._random, self._asked
        self._asked += 1
        length = random.randint(*(LONG if random.random() < LONG_SHARE else SHORT))
        tokens, seed = random.randint(*ANSWER), random.randrange(2**31)
        temperature = TEMPERATURE if random.random() < SAMPLED_SHARE else 0.0
        return number, Request(await self._prompts.make(length), tokens, temperature, seed)
