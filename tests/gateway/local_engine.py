"""An engine over a whole model in this process: the reference for what a chain of peers must yield."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, PreTrainedModel

from gateway.generation.sampling import SamplingParams
from tests.gateway.generation.draws import sample


class LocalEngine:
    """Runs all blocks of one model. `running` counts the generations whose cache is held now, `made` their tokens."""

    def __init__(self, model: PreTrainedModel) -> None:
        self.model = model
        self.running = 0
        self.made = 0
        self.began, self.ended = asyncio.Event(), asyncio.Event()

    @classmethod
    def load(cls, directory: Path) -> LocalEngine:
        torch.set_num_threads(1)
        return cls(AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32).eval())

    async def generate(
        self, prompt: list[int], params: SamplingParams, on_open: Callable[[], None] = lambda: None
    ) -> AsyncGenerator[int, None]:
        on_open()
        self.running += 1
        self.began.set()
        try:
            pending, position, cache = prompt, 0, None
            for _ in range(params.max_tokens):
                logits, cache = await asyncio.to_thread(self._forward, pending, cache)
                position += len(pending)
                token = sample(logits, params, position)
                self.made += 1
                yield token
                if token in params.stop_ids:
                    return
                pending = [token]
        finally:
            await asyncio.sleep(0)  # an engine's cleanup waits for others too: it must not be cancelled again here
            self.running -= 1
            self.ended.set()

    @torch.inference_mode()
    def _forward(self, ids: list[int], cache: object) -> tuple[torch.Tensor, object]:
        output = self.model(input_ids=torch.tensor([ids]), past_key_values=cache, use_cache=True)
        return output.logits[0, -1].float(), output.past_key_values
