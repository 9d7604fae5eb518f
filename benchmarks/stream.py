"""What a client gets from a swarm, beside a plain loop over all blocks: `python -m benchmarks.stream --help`.

Everything is started first, then measured in turn, round after round, since machines drift: compare within one run.
docs/benchmarks.md says what each figure is.
"""

from __future__ import annotations

import argparse
import platform
import sys
import time
from dataclasses import asdict
from functools import partial
from importlib.metadata import version
from pathlib import Path

import psutil
import uvloop

from benchmarks.bench import Options, standing
from benchmarks.client import EndpointFailed
from benchmarks.nodes import demo_start_s
from benchmarks.publish import publish
from benchmarks.report import Figures, tables
from shared.errors import CorollaError

DEMO_STARTS = 3


async def measure(options: Options) -> Figures:
    """Start everything, measure, end everything. Raises CorollaError, EndpointFailed."""
    started = time.perf_counter()
    starts = [demo_start_s() for _ in range(DEMO_STARTS)] if options.demo_start else []
    async with standing(options) as bench:
        return Figures(
            settings={**asdict(options), "json": None, "model": bench.remote.endpoint.model},
            machine=machine(),
            base=bench.base,
            rates=await bench.rates(),
            first_tokens=await bench.first_tokens(),
            loads=await bench.loads(),
            prompt_trace=await bench.prompt_trace(),
            memory=bench.nodes.memory() if bench.nodes else [],
            demo_start_s=starts,
            seconds=time.perf_counter() - started,
        )


def machine() -> dict[str, str | int | None]:
    """What the figures depend on besides Corolla."""
    versions = {name: version(name) for name in ("torch", "transformers")}
    return {"cores": psutil.cpu_count(), "system": platform.platform(), "python": platform.python_version(), **versions}


def main() -> None:
    options = parse()
    try:
        figures = uvloop.run(measure(options))
    except (CorollaError, EndpointFailed) as error:
        sys.exit(str(error))
    publish(tables(figures), figures.as_json(), options.json)


def parse(words: list[str] | None = None) -> Options:
    summary = (__doc__ or "").partition("\n")[0]
    parser = argparse.ArgumentParser(prog="python -m benchmarks.stream", description=summary.partition(":")[0])
    parser.add_argument("--model", help="hub id, directory or .gguf file (default: the demo's)")
    parser.add_argument("--model-name", metavar="ID", help="the model's public id, if it is not MODEL's own")
    parser.add_argument("--url", help="a running gateway: no swarm is started; loops beside it only with --model")
    parser.add_argument("--peers", type=_positive, default=3, help="that share the blocks equally")
    parser.add_argument("--quantize", choices=("none", "int8", "nf4"), default="none", help="of the peers' blocks")
    parser.add_argument("--threads", type=_positive, default=1, help="of torch, in each process")
    parser.add_argument("--prompts", type=_list, default="32,512,2048", help="tokens of those that are timed")
    parser.add_argument("--streams", type=_list, default="1,4,8,16,32", help="how many at once, such as 1,8")
    parser.add_argument("--tokens", type=_tokens, default=48, help="of each answer, 4 or more")
    parser.add_argument("--rounds", type=_positive, default=5, help="at most: how often each source has its turn")
    parser.add_argument("--minutes", type=_positive, default=5, help="a slow machine gets fewer rounds")
    parser.add_argument("--trace", action="store_true", help="break a step and a long prompt down")
    parser.add_argument("--demo-start", action="store_true", help="time `gateway demo` to its ready line first")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures here too")
    return Options(**vars(parser.parse_args(words)))


def _at_least(least: int, text: str) -> int:
    if not text.isdecimal() or int(text) < least:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of {least} or more")
    return int(text)


_positive = partial(_at_least, 1)
_tokens = partial(_at_least, 4)  # the gaps between them have to make a distribution


def _list(text: str) -> tuple[int, ...]:
    return tuple(sorted({_positive(number) for number in text.split(",")}))


if __name__ == "__main__":
    main()
