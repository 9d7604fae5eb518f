"""How long a stream pauses when a peer of it dies: `python -m benchmarks.failover --help`.

One stream at a time; once it decodes, the first, a middle or the last hop of it is killed, frozen or unplugged. The
pause is the largest gap between two pieces of the answer after that, at the client. docs/benchmarks.md says more.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path
from typing import Any, get_args

import uvloop

from benchmarks.bench import say
from benchmarks.client import EndpointFailed
from benchmarks.fleet import Fleet, Shape, running_fleet
from benchmarks.hosts import Line, running_hosts
from benchmarks.nodes import local_checkpoint
from benchmarks.prompts import Prompts, counted_by
from benchmarks.publish import publish
from benchmarks.recovery import Prediction, Replay, predict
from benchmarks.report import number, row
from benchmarks.stream import machine
from benchmarks.trials import Case, Hop, Kind, Pauses, Trials
from benchmarks.verdict import percentile
from gateway.generation.tokenizer import TextTokenizer
from shared.checkpoint import Checkpoint
from shared.errors import CorollaError

SHAPE = Shape(ranges=3, copies=2)


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What is asked for. `line` is None on loopback."""

    model: str | None
    contexts: tuple[int, ...]
    kinds: tuple[Kind, ...]
    rounds: int
    line: Line | None
    json: Path | None
    logs: Path | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """One run. `computes_s` is what the replay of a context takes in one range's blocks alone."""

    settings: dict[str, Any]
    machine: dict[str, Any]
    cases: dict[Case, Pauses]
    computes_s: dict[int, float]
    predictions: dict[int, Prediction]
    seconds: float

    def as_json(self) -> dict[str, Any]:
        cases = [{**asdict(case), **asdict(found), **self._about(case)} for case, found in self.cases.items()]
        return {"settings": self.settings, "machine": self.machine, "seconds": self.seconds, "cases": cases}

    def _about(self, case: Case) -> dict[str, Any]:
        return {"compute_s": self.computes_s[case.context], "predicted": asdict(self.predictions[case.context])}


async def measure(options: Options) -> Figures:
    """Start everything, measure, end everything. Raises CorollaError, EndpointFailed."""
    began = time.perf_counter()
    checkpoint = local_checkpoint(options.model)
    cases = {case: Pauses() for case in _cases(options)}
    async with _standing(options, checkpoint) as (fleet, trials):
        replay = Replay(checkpoint, fleet.blocks[1])
        computes = {context: replay.prefill_s(context) for context in options.contexts}
        try:
            await trials.warm_up()
            for turn, (case, found) in product(range(options.rounds), cases.items()):
                await trials.run(case, found)
                said = found.failed[-1] if len(found.failed) > len(found.pauses_s) else f"{found.pauses_s[-1]:.2f} s"
                say(f"round {turn + 1}, {case.kind} of the {case.hop} hop at {case.context} tokens: {said}")
        finally:
            if options.logs:
                fleet.write_logs(options.logs)
    return Figures(
        settings={**asdict(options), "json": None, "logs": None},
        machine=machine(),
        cases=cases,
        computes_s=computes,
        predictions={
            context: predict(options.line, replay.bytes(context), computes[context], _step_s(cases, context))
            for context in options.contexts
        },
        seconds=time.perf_counter() - began,
    )


def _cases(options: Options) -> Iterator[Case]:
    """Deaths that say nothing are tried with the first context alone: they differ by their detection."""
    for kind in options.kinds:
        contexts = options.contexts if kind == "kill" else options.contexts[:1]
        yield from (Case(kind, hop, context) for context in contexts for hop in get_args(Hop))


def _step_s(cases: dict[Case, Pauses], context: int) -> float:
    steps = [step for case, found in cases.items() if case.context == context for step in found.steps_s]
    return statistics.median(steps) if steps else 0.0


@asynccontextmanager
async def _standing(options: Options, checkpoint: Checkpoint) -> AsyncIterator[tuple[Fleet, Trials]]:
    nodes = 1 + SHAPE.ranges * SHAPE.copies
    encode = TextTokenizer.load(checkpoint.directory).encode_chat
    with tempfile.TemporaryDirectory(prefix="corolla-failover-") as folder, running_hosts(nodes, options.line) as hosts:
        say(f"starting a gateway and {nodes - 1} peers")
        async with running_fleet(checkpoint, SHAPE, hosts, Path(folder)) as fleet:
            yield fleet, Trials(fleet, SHAPE.ranges, Prompts(counted_by(encode)))


def tables(figures: Figures) -> Iterator[str]:
    """Lines to print: seconds, medians over the rounds."""
    yield "\n" + row("pause after", "tokens", "pause s", "p90 s", "compute s", "beyond s", "predicted", "failed")
    for case, found in figures.cases.items():
        middle, compute = _median(found.pauses_s), figures.computes_s[case.context]
        cells = (
            middle,
            percentile(sorted(found.pauses_s), 0.9),
            compute,
            None if middle is None else middle - compute,
            figures.predictions[case.context].total_s if case.kind == "kill" else None,
        )
        name = f"{case.kind} of the {case.hop} hop"
        yield row(name, str(case.context), *(number(cell, 2) for cell in cells), str(len(found.failed)))
    yield from _detections(figures)
    yield from _parts(figures)
    yield f"\n{figures.seconds:.0f} s in all"


def _detections(figures: Figures) -> Iterator[str]:
    """From the last that a chain did to the gateway's knowing that something had failed."""
    yield "\n" + row("detection after", "tokens", "median s", "longest s")
    for case, found in figures.cases.items():
        if found.pauses_s:
            cells = (number(statistics.median(found.detections_s), 2), number(max(found.detections_s), 2))
            yield row(f"{case.kind} of the {case.hop} hop", str(case.context), *cells)


def _parts(figures: Figures) -> Iterator[str]:
    yield "\n" + row("predicted at tokens", "detection", "connect", "transfer", "prefill", "a step", "in all")
    for context, each in figures.predictions.items():
        parts = (each.detection_s, each.connect_s, each.transfer_s, each.prefill_s, each.step_s, each.total_s)
        yield row(str(context), *(number(part, 2) for part in parts))


def _median(values: Sequence[float]) -> float | None:
    return statistics.median(values) if values else None


def main() -> None:
    options = parse()
    try:
        figures = uvloop.run(measure(options))
    except (CorollaError, EndpointFailed) as error:
        sys.exit(str(error))
    publish(tables(figures), figures.as_json(), options.json)
    sys.exit(any(found.failed for found in figures.cases.values()))


def parse(words: list[str] | None = None) -> Options:
    summary = (__doc__ or "").partition(":")[0]
    parser = argparse.ArgumentParser(prog="python -m benchmarks.failover", description=summary)
    parser.add_argument("--model", help="hub id, directory or .gguf file (default: the demo's)")
    parser.add_argument("--context", dest="contexts", type=_numbers, default="200,1000", help="tokens of the prompts")
    parser.add_argument("--kinds", type=_kinds, default="kill,freeze", help="kill, freeze, and with --wan unplug")
    parser.add_argument("--rounds", type=int, default=3, help="how often each case is tried")
    parser.add_argument("--wan", action="store_true", help="every node on a host of its own, behind a slow line (root)")
    parser.add_argument("--delay-ms", type=float, default=50, help="one way, with --wan")
    parser.add_argument("--rate-mbit", type=float, default=100, help="of each host's line, with --wan")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures here too")
    parser.add_argument("--logs", type=Path, metavar="DIR", help="write the log of every process here")
    given = vars(parser.parse_args(words))
    wan, delay_ms, rate_mbit = (given.pop(name) for name in ("wan", "delay_ms", "rate_mbit"))
    if "unplug" in given["kinds"] and not wan:
        parser.error("loopback cannot be unplugged: use --wan with --kinds unplug")
    return Options(**given, line=Line(delay_ms, rate_mbit) if wan else None)


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(sorted({int(each) for each in text.split(",")}))


def _kinds(text: str) -> tuple[Kind, ...]:
    found: tuple[Kind, ...] = tuple(kind for kind in get_args(Kind) if kind in text.split(","))
    if len(found) != len(text.split(",")):
        raise argparse.ArgumentTypeError(f"{text!r} is not a list of {', '.join(get_args(Kind))}")
    return found


if __name__ == "__main__":
    main()
