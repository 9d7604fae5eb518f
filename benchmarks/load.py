"""Many streams at once: what they get together, and what that costs."""

from __future__ import annotations

import asyncio
import statistics
import time
from dataclasses import dataclass

from benchmarks.client import Answer, Endpoint, EndpointFailed
from benchmarks.nodes import Nodes
from benchmarks.prompts import Prompt
from benchmarks.trace import Counters, Trace, Tracer

Cpu = dict[str, float]
"""CPU seconds, by which processes spent them."""

PERCENT_95 = 18  # of the 19 cuts that make 20 equal parts


@dataclass(frozen=True, slots=True)
class Reading:
    """A moment: its time, CPU seconds of the nodes so far, counters of the gateway so far."""

    time: float
    cpu: Cpu | None
    counters: Counters | None


class Meters:
    """Read at the borders of what is measured. None of both: an endpoint elsewhere tells nothing of its inside."""

    def __init__(self, nodes: Nodes | None, tracer: Tracer | None) -> None:
        self.tracer = tracer
        self._nodes = nodes

    async def read(self) -> Reading:
        cpu = self._nodes.cpu_s() if self._nodes else None
        return Reading(time.perf_counter(), cpu, await self.tracer.read() if self.tracer else None)

    def look(self) -> None:
        if self._nodes:
            self._nodes.look()


class Together:
    """The time while all streams decode: from the last one's first token to the first one's last token."""

    def __init__(self, meters: Meters, streams: int) -> None:
        self.opened: Reading | None = None
        self.closed: Reading | None = None
        self._meters = meters
        self._waiting = streams
        self._ended = False

    async def begun(self) -> None:
        self._waiting -= 1
        if not self._waiting and not self._ended:
            self.opened = await self._meters.read()

    async def done(self) -> None:
        if not self._ended:
            self._ended = True
            self.closed = await self._meters.read()


@dataclass(frozen=True, slots=True)
class Load:
    """So many streams at once, which brought so many tokens in all.

    `total_rate`: tokens after each stream's first, a second of the time from the very first to the very last token:
    the prompts that are still computed then slow it. `together_rate`: tokens a second while all streams decode, with
    `cpu_s` seconds of CPU a token; None when that was never so. `client_cpu`: this process's CPU seconds a second.
    """

    streams: int
    tokens: int
    total_rate: float
    together_rate: float | None
    first_token_s: float
    gap_s: float
    gap_p95_s: float
    cpu_s: Cpu | None
    client_cpu: float
    trace: Trace | None


async def run_load(endpoint: Endpoint, prompts: list[Prompt], tokens: int, meters: Meters) -> Load:
    """One stream a prompt, all sent at once. Raises EndpointFailed."""
    together = Together(meters, len(prompts))
    started, cpu = time.perf_counter(), time.process_time()
    asked = (endpoint.ask(prompt.messages, tokens, together.begun, together.done) for prompt in prompts)
    answers = await asyncio.gather(*asked)
    client_cpu = (time.process_time() - cpu) / (time.perf_counter() - started)
    meters.look()
    gaps = [gap for answer in answers for gap in answer.gaps_s]
    if len(gaps) < 2:
        raise EndpointFailed("all answers ended with their first tokens, so there are no rates: try another model")
    rate, cpu_s, trace = _while_all_decode(answers, together, meters)
    return Load(
        streams=len(prompts),
        tokens=sum(answer.tokens for answer in answers),
        total_rate=_total_rate(answers),
        together_rate=rate,
        first_token_s=statistics.mean(answer.first_token_s for answer in answers),
        gap_s=statistics.mean(gaps),
        gap_p95_s=statistics.quantiles(gaps, n=20)[PERCENT_95],
        cpu_s=cpu_s,
        client_cpu=client_cpu,
        trace=trace,
    )


def typical(loads: list[Load]) -> Load:
    """Medians over several runs with as many streams; the last one's trace."""
    together = [load.together_rate for load in loads if load.together_rate is not None]
    spent = [load.cpu_s for load in loads if load.cpu_s is not None]
    return Load(
        streams=loads[0].streams,
        tokens=sum(load.tokens for load in loads),
        total_rate=statistics.median(load.total_rate for load in loads),
        together_rate=statistics.median(together) if together else None,
        first_token_s=statistics.median(load.first_token_s for load in loads),
        gap_s=statistics.median(load.gap_s for load in loads),
        gap_p95_s=statistics.median(load.gap_p95_s for load in loads),
        cpu_s={name: statistics.median(each[name] for each in spent) for name in spent[0]} if spent else None,
        client_cpu=statistics.median(load.client_cpu for load in loads),
        trace=loads[-1].trace,
    )


def _total_rate(answers: list[Answer]) -> float:
    window_s = max(answer.ended for answer in answers) - min(answer.first for answer in answers)
    return sum(answer.tokens - 1 for answer in answers) / window_s


def _while_all_decode(
    answers: list[Answer], together: Together, meters: Meters
) -> tuple[float | None, Cpu | None, Trace | None]:
    """Tokens a second, CPU seconds a token, and the counters, while all streams decode."""
    opened, closed = together.opened, together.closed
    if opened is None or closed is None:
        return None, None, None
    tokens = sum(answer.tokens_between(opened.time, closed.time) for answer in answers)
    if not tokens:
        return None, None, None
    rate = tokens / (closed.time - opened.time)
    cpu = trace = None
    if opened.cpu and closed.cpu:
        cpu = {name: (closed.cpu[name] - spent) / tokens for name, spent in opened.cpu.items()}
    if meters.tracer and opened.counters and closed.counters:
        trace = meters.tracer.between(opened.counters, closed.counters)
    return rate, cpu, trace
