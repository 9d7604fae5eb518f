"""What a run has found, as tables to read and as JSON to keep."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from benchmarks.load import Load, typical
from benchmarks.nodes import Memory
from benchmarks.single import FirstTokens
from benchmarks.trace import HopTrace, Trace

NAME_WIDTH, WIDTH = 26, 12


@dataclass(frozen=True, slots=True)
class PromptTrace:
    """A prompt's way through the chain: its trace, and the seconds to its first token."""

    prompt_tokens: int
    wall_s: float
    trace: Trace

    @property
    def overlap(self) -> float:
        """Seconds of forwards, over all hops, a second: above 1 where hops worked at the same time."""
        return sum(hop.forward.total for hop in self.trace.hops) / self.wall_s


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """Everything that one run has measured. `base` names the source that the others are divided by.

    Lists have one entry a round. What could not be measured is empty or None.
    """

    settings: Mapping[str, Any]
    machine: Mapping[str, Any]
    base: str | None
    rates: Mapping[str, list[float]]
    first_tokens: list[FirstTokens]
    loads: Mapping[int, list[Load]]
    prompt_trace: PromptTrace | None
    memory: list[Memory]
    demo_start_s: list[float]
    seconds: float

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def tables(figures: Figures) -> Iterator[str]:
    """Lines to print: one table a question."""
    loads = [typical(loads) for loads in figures.loads.values()]
    yield from _sources("one stream, decoding", "tokens/s", 1, figures.rates, figures.base)
    for found in figures.first_tokens:
        title = f"first token after {found.prompt_tokens}"
        yield from _sources(title, "seconds", 3, found.seconds, figures.base)
    yield from _loads(loads)
    yield from _cpu([load for load in loads if load.cpu_s])
    yield from _memory(figures.memory)
    for load in loads:
        if load.trace:
            yield from _step_trace(load, load.trace)
    if figures.prompt_trace:
        yield from _prompt_trace(figures.prompt_trace)
    if figures.demo_start_s:
        yield f"\n`gateway demo`, warm cache, to ready: {statistics.median(figures.demo_start_s):.1f} s"
    yield f"\n{figures.seconds:.0f} s in all"


def _sources(
    title: str, unit: str, digits: int, measured: Mapping[str, list[float]], base: str | None
) -> Iterator[str]:
    yield "\n" + row(title, unit, "lowest", "highest", "of base")
    for name, values in measured.items():
        middle = statistics.median(values)
        ratio = middle / statistics.median(measured[base]) if base else None
        spread = (number(each, digits) for each in (middle, min(values), max(values)))
        yield row(f"{name} *" if name == base else name, *spread, number(ratio, 2))


def _loads(loads: list[Load]) -> Iterator[str]:
    if not loads:
        return
    columns = ("tokens/s", "of single", "all decode", "of single", "first tok s", "gap ms", "gap p95 ms", "client CPU")
    yield "\n" + row("streams at once", *columns)
    single = next((load for load in loads if load.streams == 1), None)
    for load in loads:
        yield row(
            str(load.streams),
            number(load.total_rate, 1),
            number(_ratio(load.total_rate, single and single.total_rate), 2),
            number(load.together_rate, 1),
            number(_ratio(load.together_rate, single and single.together_rate), 2),
            number(load.first_token_s, 2),
            number(1e3 * load.gap_s, 1),
            number(1e3 * load.gap_p95_s, 1),
            number(load.client_cpu, 2),
        )


def _cpu(loads: list[Load]) -> Iterator[str]:
    if not loads:
        return
    names = list(loads[0].cpu_s or {})
    yield "\n" + row("CPU ms a token", "in all", *names)
    for load in loads:
        spent = load.cpu_s or {}
        cells = (number(1e3 * seconds, 2) for seconds in (sum(spent.values()), *(spent[name] for name in names)))
        yield row(f"{load.streams} streams", *cells)


def _memory(memory: list[Memory]) -> Iterator[str]:
    if not memory:
        return
    yield "\n" + row("memory, MB", "ready", "peak", "its libp2p")
    for each in memory:
        yield row(
            each.node, *(number(held / 1e6, 0) for held in (each.ready_bytes, each.peak_bytes, each.libp2p_bytes))
        )


def _step_trace(load: Load, trace: Trace) -> Iterator[str]:
    """The time between two tokens of one stream: in the chain, in the gateway's own turn, and elsewhere."""
    yield "\n" + row(f"a step of {load.streams} streams", "ms", "times")
    if not trace.step.times:
        yield "the gateway has counted no steps meanwhile"
        return
    turn_s, step_s = trace.turn.mean, trace.step.mean
    yield row("between two tokens", _ms(load.gap_s))
    yield row(f"gateway's turn, {trace.rows.mean:.1f} rows", _ms(turn_s), number(trace.turn.times, 0))
    yield row("chain", _ms(step_s), number(trace.step.times, 0))
    for hop in trace.hops:
        yield from _hop(hop, hop.queue.mean, hop.forward.mean)
    yield row("  wire", _ms(trace.wire_s))
    yield row("rest (HTTP, event loop)", _ms(load.gap_s - turn_s - step_s))
    added_s = load.gap_s - turn_s - sum(hop.forward.mean for hop in trace.hops)
    yield row("added by each hop", _ms(added_s / max(1, len(trace.hops))))


def _prompt_trace(traced: PromptTrace) -> Iterator[str]:
    yield "\n" + row(f"a prompt of {traced.prompt_tokens}", "ms", "frames")
    yield row("first token", _ms(traced.wall_s))
    yield row("gateway's turns", _ms(traced.trace.turn.total), number(traced.trace.turn.times, 0))
    for hop in traced.trace.hops:
        yield from _hop(hop, hop.queue.total, hop.forward.total)
    yield row("forwards by wall time", number(traced.overlap, 2))


def _hop(hop: HopTrace, queue_s: float, forward_s: float) -> Iterator[str]:
    yield row(f"  {hop.blocks} queue", _ms(queue_s), number(hop.queue.times, 0))
    yield row(f"  {hop.blocks} forward", _ms(forward_s), number(hop.forward.times, 0))


def _ratio(value: float | None, base: float | None) -> float | None:
    return value / base if value is not None and base else None


def number(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:,.{digits}f}"


def _ms(seconds: float) -> str:
    return number(1e3 * seconds, 2)


def row(name: str, *cells: str) -> str:
    return f"{name:<{NAME_WIDTH}}" + "".join(f"{cell:>{WIDTH}}" for cell in cells)
