"""Streams run while their peers are killed, frozen, restarted and unplugged: `python -m benchmarks.chaos --help`.

What is done when, and what the streams ask for, is drawn from a seed, which is printed. The exit status is 1 when a
token was wrong, a stream hung, or one ended with an error though a spare was there. docs/benchmarks.md says more.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
import uvloop

from benchmarks.bench import say
from benchmarks.client import EndpointFailed
from benchmarks.faults import NATURES, Kind, plan
from benchmarks.fleet import Fleet, Shape, running_fleet
from benchmarks.havoc import Event, Havoc
from benchmarks.hosts import Line, running_hosts
from benchmarks.nodes import local_checkpoint
from benchmarks.prompts import Prompts, counted_by
from benchmarks.publish import publish
from benchmarks.stream import machine
from benchmarks.streams import Stream, Streams
from benchmarks.teacher import Teacher
from benchmarks.trace import percentiles
from benchmarks.verdict import Found, Wrong, broken, by_kind, faults_during, pauses, table
from gateway.generation.sampling import SamplingParams
from gateway.generation.tokenizer import TextTokenizer
from shared.checkpoint import Checkpoint
from shared.errors import CorollaError

PAUSES = "corolla_failover_pause_seconds"
SAID_S = 30.0
CHECK_THREADS = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What is asked for. Without a `model` it is the demo's; `line` is None on loopback."""

    model: str | None
    minutes: float
    seed: int
    ranges: int
    copies: int
    streams: int
    every_s: float
    no_spare: float
    kinds: tuple[Kind, ...]
    line: Line | None
    json: Path | None
    logs: Path | None


@dataclass(slots=True)
class Run:
    """What came of the time under faults; `failover` is the gateway's own count of pauses."""

    began: float
    streams: list[Stream]
    events: list[Event]
    failover: dict[str, float]
    trouble: str | None = None


async def wreak(options: Options, checkpoint: Checkpoint, tokenizer: TextTokenizer) -> Run:
    """Start everything, do the faults, end everything. Raises CorollaError, EndpointFailed before it has begun."""
    async with _standing(options, checkpoint) as fleet:
        streams = Streams(fleet.endpoint, Prompts(counted_by(tokenizer.encode_chat)), options.seed)
        havoc, run = Havoc(fleet), Run(time.perf_counter(), streams.ended, [], {})
        run.events = havoc.events
        try:
            await _for_a_while(options, streams, havoc)
            run.failover = percentiles((await fleet.endpoint.http.get("/metrics")).text, PAUSES)
        except* EndpointFailed as trouble:
            run.trouble = "; ".join(_sentences(trouble))
        finally:
            if options.logs:
                fleet.write_logs(options.logs)
        return run


def _sentences(group: BaseExceptionGroup[EndpointFailed]) -> Iterator[str]:
    for error in group.exceptions:
        if isinstance(error, BaseExceptionGroup):
            yield from _sentences(error)
        else:
            yield str(error)


async def _for_a_while(options: Options, streams: Streams, havoc: Havoc) -> None:
    stop = asyncio.Event()
    places = options.ranges * options.copies
    faults = plan(options.seed, places, options.every_s, options.kinds, options.no_spare)
    asyncio.get_running_loop().call_later(60 * options.minutes, stop.set)
    async with asyncio.TaskGroup() as group:
        group.create_task(streams.run(options.streams, stop))
        group.create_task(havoc.run(faults, stop))
        group.create_task(_say_how_far(streams, havoc, stop))


async def _say_how_far(streams: Streams, havoc: Havoc, stop: asyncio.Event) -> None:
    while not stop.is_set():
        whole = sum(stream.end == "whole" for stream in streams.ended)
        say(f"{len(havoc.events)} faults, {whole} streams whole, {len(streams.ended) - whole} not")
        try:
            await asyncio.wait_for(stop.wait(), SAID_S)
        except TimeoutError:
            continue


@asynccontextmanager
async def _standing(options: Options, checkpoint: Checkpoint) -> AsyncIterator[Fleet]:
    nodes = 1 + options.ranges * options.copies
    with tempfile.TemporaryDirectory(prefix="corolla-chaos-") as folder, running_hosts(nodes, options.line) as hosts:
        say(f"starting a gateway and {nodes - 1} peers")
        async with running_fleet(checkpoint, Shape(options.ranges, options.copies), hosts, Path(folder)) as fleet:
            yield fleet


def wrong_streams(teacher: Teacher, run: Run) -> list[Wrong]:
    """Streams with tokens that a whole float32 model would not have chosen after those before, or with too few."""
    found = []
    for done, stream in enumerate(run.streams, start=1):
        verdict = teacher.judge(stream.prompt_ids, stream.ids, _params(stream))
        asked = stream.request
        missing = max(0, asked.tokens - len(stream.ids)) if stream.finish == "length" else 0
        if verdict.wrong or missing or len(stream.ids) > asked.tokens:
            faults = faults_during(stream, run.events, run.began)
            tokens, temperature = max(1, verdict.wrong + missing), asked.temperature
            found.append(Wrong(stream.number, tokens, verdict.worst, len(stream.prompt_ids), temperature, faults))
        if done % 50 == 0:
            say(f"{done} of {len(run.streams)} streams checked")
    return found


def _params(stream: Stream) -> SamplingParams:
    asked = stream.request
    return SamplingParams(asked.temperature, 1.0, 0, asked.seed, asked.tokens, frozenset())


def found_in(options: Options, run: Run, wrong: list[Wrong]) -> Found:
    events: Sequence[Event] = run.events
    settings = {**asdict(options), "json": None, "logs": None}
    return Found(
        seed=options.seed,
        settings=settings,
        machine=machine(),
        seconds=max((stream.ended for stream in run.streams), default=run.began) - run.began,
        faults=by_kind(events),
        without_spare=sum(not event.spare for event in events),
        streams=len(run.streams),
        tokens=sum(len(stream.ids) for stream in run.streams),
        checked=sum(len(stream.ids) for stream in run.streams if stream.prompt_ids),
        wrong=wrong,
        broken=broken(run.streams, events, run.began),
        pauses=pauses(run.streams, events, run.began),
        failover=run.failover,
        events=[{**asdict(each), "at": each.at - run.began, "over": each.over - run.began} for each in events],
        trouble=run.trouble,
    )


def main() -> None:
    options = parse()
    print(f"seed {options.seed}", flush=True)
    try:
        checkpoint = local_checkpoint(options.model)
        run = uvloop.run(wreak(options, checkpoint, TextTokenizer.load(checkpoint.directory)))
    except (CorollaError, EndpointFailed) as error:
        sys.exit(str(error))
    torch.set_num_threads(CHECK_THREADS)
    found = found_in(options, run, wrong_streams(Teacher(checkpoint.directory), run))
    publish(table(found), found.as_json(), options.json)
    sys.exit(not found.passed)


def parse(words: list[str] | None = None) -> Options:
    summary = (__doc__ or "").partition(":")[0]
    parser = argparse.ArgumentParser(prog="python -m benchmarks.chaos", description=summary)
    parser.add_argument("--model", help="hub id, directory or .gguf file (default: the demo's)")
    parser.add_argument("--minutes", type=float, default=10, help="under faults; the check of tokens comes after it")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(10**6), help="repeats a run")
    parser.add_argument("--ranges", type=int, default=3, help="equal parts of the model's blocks")
    parser.add_argument("--copies", type=int, default=3, help="peers with each range")
    parser.add_argument("--streams", type=int, default=3, help="at once, all the time")
    parser.add_argument("--every-s", type=float, default=5.5, help="mean time from one fault to the next")
    parser.add_argument("--no-spare", type=float, default=0.0, help="share of faults that hit all copies of a range")
    parser.add_argument("--kinds", type=_kinds, default=",".join(NATURES), help="of faults; unplug only with --wan")
    parser.add_argument("--wan", action="store_true", help="every node on a host of its own, behind a slow line (root)")
    parser.add_argument("--delay-ms", type=float, default=10, help="one way, with --wan")
    parser.add_argument("--rate-mbit", type=float, default=100, help="of each host's line, with --wan")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write what was found here too")
    parser.add_argument("--logs", type=Path, metavar="DIR", help="write the log of every process here")
    given = vars(parser.parse_args(words))
    wan, delay_ms, rate_mbit = (given.pop(name) for name in ("wan", "delay_ms", "rate_mbit"))
    if not wan:
        given["kinds"] = tuple(kind for kind in given["kinds"] if kind != "unplug")
    return Options(**given, line=Line(delay_ms, rate_mbit) if wan else None)


def _kinds(text: str) -> tuple[Kind, ...]:
    found: tuple[Kind, ...] = tuple(kind for kind in NATURES if kind in text.split(","))
    if len(found) != len(text.split(",")):
        raise argparse.ArgumentTypeError(f"{text!r} is not a list of {', '.join(NATURES)}")
    return found


if __name__ == "__main__":
    main()
