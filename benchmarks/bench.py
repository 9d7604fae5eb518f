"""What stands while a benchmark runs (a swarm or somebody's gateway, loops beside it), and what is measured on it."""

from __future__ import annotations

import sys
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from benchmarks.client import Endpoint
from benchmarks.load import Load, Meters, run_load
from benchmarks.local_loop import BlocksLoop, LocalLoop, TransformersLoop
from benchmarks.nodes import Nodes, local_checkpoint, running_nodes
from benchmarks.prompts import Encode, Prompts, counted_by, estimated_by
from benchmarks.report import PromptTrace
from benchmarks.rounds import turns
from benchmarks.single import FirstTokens, Remote, Source, decode_rates, first_tokens
from benchmarks.trace import Tracer
from gateway.generation.tokenizer import TextTokenizer
from shared.checkpoint import Checkpoint

SHORT, WARM = 32, 128
"""Tokens of the prompts that are decoded after, and of the one to warm up."""

PROMPT_ROUNDS, LOAD_ROUNDS = 3, 2
"""At most so many: they take longest."""

RATE_SHARE, PROMPTS_SHARE, LOAD_SHARE = 0.15, 0.35, 0.45
"""Of the time for all: for rounds of decoding, of prompts, of streams at once. What is left is for a trace."""

LOAD_LENGTH = 2
"""Streams at once are so many times as long as one alone: a crowded machine's peers take a second to settle."""

LOOP_THREADS = (1, 2)


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What is asked for. With a `url` no swarm is started, and without a `model` then no loop runs beside it."""

    model: str | None
    model_name: str | None
    url: str | None
    peers: int
    quantize: str
    threads: int
    prompts: tuple[int, ...]
    streams: tuple[int, ...]
    tokens: int
    rounds: int
    minutes: float
    trace: bool
    demo_start: bool
    json: Path | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Bench:
    """Started and warm. `base` names the loop that everything is compared with, if there are loops."""

    options: Options
    prompts: Prompts
    remote: Remote
    loops: Mapping[str, Source]
    own_blocks: Mapping[str, Source]
    base: str | None
    nodes: Nodes | None
    meters: Meters
    left_s: float
    """For measuring, once all stands."""

    async def rates(self) -> dict[str, list[float]]:
        """Decoding one stream: tokens a second, by source."""
        sources = {self._name: self.remote, **self.loops, **self.own_blocks}
        with _phase("decoding one stream"):
            return await decode_rates(sources, self.prompts, SHORT, self.options.tokens, self._turns(RATE_SHARE))

    async def first_tokens(self) -> list[FirstTokens]:
        sources, found = {self._name: self.remote, **self.loops}, []
        for length in self.options.prompts:
            with _phase(f"prompts of {length} tokens"):
                rounds = self._turns(PROMPTS_SHARE / len(self.options.prompts), PROMPT_ROUNDS)
                found.append(await first_tokens(self.remote, sources, self.prompts, length, rounds))
        return found

    async def loads(self) -> dict[int, list[Load]]:
        """By the number of streams, one a round."""
        loads: dict[int, list[Load]] = {streams: [] for streams in self.options.streams}
        for _ in self._turns(LOAD_SHARE, LOAD_ROUNDS):
            for streams, found in loads.items():
                with _phase(f"{streams} streams at once"):
                    prompts = [await self.prompts.make(SHORT) for _ in range(streams)]
                    tokens = LOAD_LENGTH * self.options.tokens
                    found.append(await run_load(self.remote.endpoint, prompts, tokens, self.meters))
        return loads

    async def prompt_trace(self) -> PromptTrace | None:
        """Of the longest prompt; None when no counters are read."""
        tracer = self.meters.tracer
        if tracer is None:
            return None
        with _phase("a long prompt, traced"):
            prompt = await self.prompts.make(self.options.prompts[-1])
            before = await tracer.read()
            wall_s = await self.remote.first_token_s(prompt)
            return PromptTrace(self.remote.prompt_tokens, wall_s, tracer.between(before, await tracer.read()))

    async def warm_up(self) -> None:
        """Whatever happens at first use only."""
        with _phase("warming up"):
            for source in (self.remote, *self.loops.values(), *self.own_blocks.values()):
                await source.first_token_s(await self.prompts.make(WARM))
                await source.rate(await self.prompts.make(SHORT), 8)

    def _turns(self, share: float, most: int | None = None) -> Iterator[int]:
        rounds = self.options.rounds if most is None else min(self.options.rounds, most)
        return turns(rounds, share * self.left_s)

    @property
    def _name(self) -> str:
        peers = self.options.peers
        return "gateway at --url" if self.options.url else f"{peers} peer{'s' if peers > 1 else ''}"


@asynccontextmanager
async def standing(options: Options) -> AsyncIterator[Bench]:
    """All that is measured, ended with the context. Raises CorollaError, EndpointFailed."""
    began = time.perf_counter()
    async with AsyncExitStack() as stack:
        checkpoint = _checkpoint(options)
        nodes = None
        if checkpoint and not options.url:
            with _phase(f"starting {options.peers} peers and a gateway"):
                started = running_nodes(checkpoint, options.peers, options.threads, options.quantize)
                nodes = stack.enter_context(started)
        endpoint = await stack.enter_async_context(Endpoint(nodes.url if nodes else options.url or ""))
        await endpoint.choose(checkpoint.id if checkpoint else None)
        encode = TextTokenizer.load(checkpoint.directory).encode_chat if checkpoint else None
        prompts = Prompts(counted_by(encode) if encode else await estimated_by(endpoint))
        loops = _loops(stack, options, checkpoint.directory, encode) if checkpoint and encode else {}
        own = _own_blocks(stack, options, checkpoint.directory, encode) if checkpoint and encode else {}
        bench = Bench(
            options=options,
            prompts=prompts,
            remote=Remote(endpoint),
            loops=loops,
            own_blocks=own,
            base=_transformers(options.threads) if loops else None,
            nodes=nodes,
            meters=Meters(nodes, await _tracer(endpoint) if options.trace else None),
            left_s=0.0,
        )
        await bench.warm_up()
        yield replace(bench, left_s=60 * options.minutes - (time.perf_counter() - began))


def _checkpoint(options: Options) -> Checkpoint | None:
    """The model, complete on this machine; None when only a gateway elsewhere has it."""
    if options.model is None and options.url is not None:
        return None
    return local_checkpoint(options.model, options.model_name)


def _transformers(threads: int) -> str:
    return f"transformers, {_threads(threads)}"


def _threads(threads: int) -> str:
    return f"{threads} thread{'s' if threads > 1 else ''}"


def _loops(stack: AsyncExitStack, options: Options, directory: Path, encode: Encode) -> dict[str, Source]:
    loops: dict[str, Source] = {}
    for threads in sorted({*LOOP_THREADS, options.threads}):
        loop = LocalLoop(partial(TransformersLoop, directory), threads, encode)
        stack.callback(loop.close)
        loops[_transformers(threads)] = loop
    return loops


def _own_blocks(stack: AsyncExitStack, options: Options, directory: Path, encode: Encode) -> dict[str, Source]:
    loop = LocalLoop(partial(BlocksLoop, directory, options.quantize), options.threads, encode)
    stack.callback(loop.close)
    return {f"own blocks, {_threads(options.threads)}": loop}


async def _tracer(endpoint: Endpoint) -> Tracer | None:
    tracer = await Tracer.of(endpoint)
    if tracer is None:
        say(f"{endpoint.url} has no /metrics: no trace")
    return tracer


@contextmanager
def _phase(name: str) -> Iterator[None]:
    """Tells on stderr how far it is."""
    started = time.perf_counter()
    yield
    say(f"{name}: {time.perf_counter() - started:.1f} s")


def say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
