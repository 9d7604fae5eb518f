"""The plain loop over all blocks in one process: what a swarm is compared with."""

from __future__ import annotations

import asyncio
import multiprocessing
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Protocol

import torch
from transformers import AutoModelForCausalLM

from benchmarks.prompts import Encode, Prompt
from gateway.generation.ends import Ends
from peer.model.blocks import Blocks
from shared.checkpoint import open_checkpoint
from shared.options import default_cache_dir
from shared.types import BlockRange


class Loop(Protocol):
    def start(self, prompt: list[int], reserve: int) -> int:
        """The first token after a prompt, with room for `reserve` tokens in all."""
        ...

    def step(self, token: int) -> int:
        """The token after this one."""
        ...


class TransformersLoop:
    """transformers' own forward and cache, as `generate` runs them."""

    def __init__(self, directory: Path) -> None:
        self._model = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32)
        self._cache: Any = None

    def start(self, prompt: list[int], reserve: int) -> int:
        self._cache = None
        return self._run(prompt)

    def step(self, token: int) -> int:
        return self._run([token])

    def _run(self, ids: list[int]) -> int:
        output = self._model(torch.tensor([ids]), past_key_values=self._cache, use_cache=True, logits_to_keep=1)
        self._cache = output.past_key_values
        return int(output.logits[0, -1].argmax())


class BlocksLoop:
    """All of a peer's blocks and a gateway's ends, without the swarm between them."""

    def __init__(self, directory: Path, quantization: str) -> None:
        checkpoint = open_checkpoint(str(directory), name=None, cache_dir=default_cache_dir())
        everything = BlockRange(0, checkpoint.blocks)
        cpu = torch.device("cpu")
        with checkpoint.prepare("ends") as part:
            self._ends = Ends.load(part, dtype=torch.float32, device=cpu)
        with checkpoint.prepare(everything) as part:
            self._blocks = Blocks.load(part, everything, dtype=torch.float32, device=cpu, quantization=quantization)
        self._position = 0
        self._cache: Any = None

    def start(self, prompt: list[int], reserve: int) -> int:
        self._position = 0
        self._cache = self._blocks.new_cache(self._blocks.range, reserve)
        return self._run(prompt)

    def step(self, token: int) -> int:
        return self._run([token])

    def _run(self, ids: list[int]) -> int:
        hidden = self._blocks.forward(self._ends.embed(ids, self._position), self._cache, self._position)
        self._position += len(ids)
        return int(self._ends.logits(hidden[-1:])[0].argmax())


MakeLoop = Callable[[], Loop]


class LocalLoop:
    """A loop in a process of its own, with so many torch threads."""

    def __init__(self, make: MakeLoop, threads: int, encode: Encode) -> None:
        self._encode = encode
        self._pipe, there = multiprocessing.Pipe()
        context = multiprocessing.get_context("spawn")
        self._process = context.Process(target=_serve, args=(make, threads, there), daemon=True)
        self._process.start()
        there.close()

    async def rate(self, prompt: Prompt, tokens: int) -> float:
        """Tokens a second after the first, decoded greedily, past end tokens too."""
        _, rest_s = await self._run(prompt, tokens)
        return (tokens - 1) / rest_s

    async def first_token_s(self, prompt: Prompt) -> float:
        """Seconds from the prompt's ids to the first token's."""
        first_s, _ = await self._run(prompt, 1)
        return first_s

    async def _run(self, prompt: Prompt, tokens: int) -> tuple[float, float]:
        """Seconds to the first token, and from there to the last."""
        self._pipe.send((await self._encode(prompt.messages), tokens))
        return await asyncio.to_thread(self._pipe.recv)

    def close(self) -> None:
        self._pipe.close()
        self._process.join()


def _serve(make: MakeLoop, threads: int, pipe: Connection) -> None:
    torch.set_num_threads(threads)
    loop = make()
    while True:
        try:
            prompt, tokens = pipe.recv()
        except EOFError:
            return
        with torch.inference_mode():
            pipe.send(_timed(loop, prompt, tokens))


def _timed(loop: Loop, prompt: list[int], tokens: int) -> tuple[float, float]:
    started = time.perf_counter()
    token = loop.start(prompt, len(prompt) + tokens)
    first = time.perf_counter()
    for _ in range(tokens - 1):
        token = loop.step(token)
    return first - started, time.perf_counter() - first
