"""One stream through a swarm, against the plain loop over all blocks in one process: `python -m benchmarks.stream`.

Everything is started first, then measured in turn, round after round, since machines drift: compare within one run.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import statistics
import tempfile
import time
from contextlib import ExitStack
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import psutil
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from gateway.demo_model import DEMO_MODEL, fetch_demo_model
from gateway.generation.ends import Ends
from peer.model.blocks import Blocks
from shared.checkpoint import open_checkpoint
from shared.options import default_cache_dir
from shared.types import BlockRange
from tests.swarm import Node, Swarm, free_port, running_swarm

PROMPT = "Write a long story about a lighthouse keeper who finds a strange flower."


class TransformersLoop:
    """transformers' own forward and cache."""

    def __init__(self, directory: Path) -> None:
        self._model = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32)

    def start(self, prompt: list[int]) -> int:
        return self._run(prompt, None)

    def step(self, token: int) -> int:
        return self._run([token], self._cache)

    def _run(self, ids: list[int], cache: Any) -> int:
        output = self._model(torch.tensor([ids]), past_key_values=cache, use_cache=True, logits_to_keep=1)
        self._cache = output.past_key_values
        return int(output.logits[0, -1].argmax())


class BlocksLoop:
    """All of a peer's blocks and a gateway's ends, without the swarm between them."""

    def __init__(self, directory: Path) -> None:
        checkpoint = open_checkpoint(str(directory), name=None, cache_dir=default_cache_dir())
        everything = BlockRange(0, checkpoint.blocks)
        cpu = torch.device("cpu")
        with checkpoint.prepare("ends") as part:
            self._ends = Ends.load(part, dtype=torch.float32, device=cpu)
        with checkpoint.prepare(everything) as part:
            self._blocks = Blocks.load(part, everything, dtype=torch.float32, device=cpu, quantization="none")

    def start(self, prompt: list[int]) -> int:
        self._position = 0
        self._cache = self._blocks.new_cache(self._blocks.range, 4096)
        return self._run(prompt)

    def step(self, token: int) -> int:
        return self._run([token])

    def _run(self, ids: list[int]) -> int:
        hidden = self._blocks.forward(self._ends.embed(ids, self._position), self._cache, self._position)
        self._position += len(ids)
        return int(self._ends.logits(hidden[-1:])[0].argmax())


LOOPS = {"transformers' loop": TransformersLoop, "own blocks, no swarm": BlocksLoop}


def local_loop(name: str, directory: Path, threads: int, pipe: Connection) -> None:
    """In a process of its own: decode greedily when told to, and tell the rate after the first token."""
    torch.set_num_threads(threads)
    loop = LOOPS[name](directory)
    tokenizer = AutoTokenizer.from_pretrained(directory)
    messages = [{"role": "user", "content": PROMPT}]
    prompt = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=True)["input_ids"]
    while tokens := pipe.recv():
        with torch.inference_mode():
            token = loop.start(prompt)
            first = time.perf_counter()
            for _ in range(tokens - 1):
                token = loop.step(token)
        pipe.send((tokens - 1) / (time.perf_counter() - first))


class Local:
    """A loop over all blocks, in one process."""

    def __init__(self, name: str, directory: Path, threads: int) -> None:
        self._pipe, there = multiprocessing.Pipe()
        context = multiprocessing.get_context("spawn")
        context.Process(target=local_loop, args=(name, directory, threads, there), daemon=True).start()

    def rate(self, tokens: int) -> float:
        self._pipe.send(tokens)
        return self._pipe.recv()

    def close(self) -> None:
        self._pipe.send(0)


class Remote:
    """A stream through a swarm's gateway."""

    def __init__(self, swarm: Swarm) -> None:
        self.swarm = swarm

    def rate(self, tokens: int) -> float:
        """Tokens a second after the first, as a client sees them."""
        body = {
            "model": DEMO_MODEL,
            "messages": [{"role": "user", "content": PROMPT}],
            "temperature": 0,
            "max_tokens": tokens,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        arrivals: list[float] = []
        completed = 0
        with self.swarm.client.stream("POST", "/v1/chat/completions", json=body) as response:
            for line in response.iter_lines():
                chunk = json.loads(line[6:]) if line.startswith("data: {") else {}
                if chunk.get("usage"):
                    completed = chunk["usage"]["completion_tokens"]
                elif chunk.get("choices") and chunk["choices"][0]["delta"].get("content"):
                    arrivals.append(time.perf_counter())
        return (completed - 1) / (arrivals[-1] - arrivals[0])


def start_swarm(stack: ExitStack, directory: Path, peers: int, threads: int) -> Swarm:
    folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
    swarm = stack.enter_context(running_swarm(folder, {DEMO_MODEL: directory}, threads=threads))
    borders = [30 * part // peers for part in range(peers + 1)]
    nodes = [swarm.add_peer(f"{borders[k]}:{borders[k + 1]}") for k in range(peers)]
    for node in [*nodes, swarm.gateway]:
        node.ready()
    return swarm


def memory(swarm: Swarm) -> list[dict[str, Any]]:
    """Resident megabytes of each process, its libp2p process apart."""
    rows = []
    for node in swarm.nodes:
        process = psutil.Process(node.process.pid)
        children = sum(child.memory_info().rss for child in process.children())
        label = " ".join(node.command[:1] + [word for word in node.command if ":" in word and word[0].isdecimal()])
        rows.append({"process": label, "mb": process.memory_info().rss / 1e6, "libp2p_mb": children / 1e6})
    return rows


def demo_start_s() -> float:
    """Seconds from `gateway demo`, with a warm cache, to its ready line."""
    started = time.perf_counter()
    demo = Node("gateway", "demo", "--port", str(free_port()))
    try:
        demo.ready()
        return time.perf_counter() - started
    finally:
        demo.stop()


def measure(arguments: argparse.Namespace, directory: Path) -> dict[str, Any]:
    with ExitStack() as stack:
        names = [f"{peers} peer{'s' if peers > 1 else ''}" for peers in arguments.peers]
        sources = {
            name: Remote(start_swarm(stack, directory, peers, arguments.threads))
            for name, peers in zip(names, arguments.peers, strict=True)
        }
        loops = {name: Local(name, directory, arguments.threads) for name in LOOPS}
        everyone = {**loops, **sources}
        for source in everyone.values():
            source.rate(8)
        rates: dict[str, list[float]] = {name: [] for name in everyone}
        for _ in range(arguments.rounds):
            for name, source in everyone.items():
                rates[name].append(source.rate(arguments.tokens))
        for loop in loops.values():
            loop.close()
        last = next(reversed(sources.values()))
        return {"rates": rates, "memory": memory(last.swarm)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--peers", type=int, nargs="+", default=[1, 3])
    parser.add_argument("--threads", type=int, default=1, help="of torch, in each process")
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--json", type=Path, help="write the figures here too")
    arguments = parser.parse_args()
    directory = fetch_demo_model(default_cache_dir())
    starts = [demo_start_s() for _ in range(3)]
    figures = {"demo_ready_s": starts, "threads": arguments.threads, **measure(arguments, directory)}
    base = statistics.median(figures["rates"]["transformers' loop"])
    print(f"gateway demo, warm cache, to ready: {statistics.median(starts):.1f} s")
    print(f"{'one stream, float32':>22} {'tokens/s':>9} {'of first':>9}")
    for name, rates in figures["rates"].items():
        print(f"{name:>22} {statistics.median(rates):>9.1f} {statistics.median(rates) / base:>9.2f}")
    for row in figures["memory"]:
        print(f"{row['process']:>22} {row['mb']:>6.0f} MB + libp2p {row['libp2p_mb']:.0f} MB")
    print(json.dumps(figures))
    if arguments.json:
        arguments.json.write_text(json.dumps(figures, indent=1))


if __name__ == "__main__":
    main()
