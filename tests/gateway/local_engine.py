"""An engine over a whole model in this process: the reference for what a chain of peers must yield."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from transformers import AutoModelForCausalLM, PreTrainedModel

from gateway.generation.sampler import Sampler, draw_tokens
from gateway.generation.sampling import SamplingParams
from gateway.generation.tokens import Likelihood, OnOpen, Token
from shared.anatomy import core_of


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

    def generate_each(
        self, prompt: list[int], choices: Sequence[SamplingParams], on_open: OnOpen = lambda numerics: None
    ) -> Sequence[AsyncGenerator[Token, None]]:
        return [self.generate(prompt, params, on_open) for params in choices]

    async def generate(
        self, prompt: list[int], params: SamplingParams, on_open: OnOpen = lambda numerics: None
    ) -> AsyncGenerator[Token, None]:
        on_open("local")
        self.running += 1
        self.began.set()
        try:
            async with Sampler(params, prompt) as sampler:
                pending, position, cache = prompt, 0, None
                for _ in range(params.max_tokens):
                    logits, cache = await asyncio.to_thread(self._forward, pending, cache)
                    position += len(pending)
                    await sampler.ready()
                    (token,) = await asyncio.to_thread(draw_tokens, logits[None], [sampler], [position])
                    self.made += 1
                    yield token
                    if token.id in params.stop_ids:
                        return
                    sampler.accept(token.id)
                    pending = [token.id]
        finally:
            await asyncio.sleep(0)  # an engine's cleanup waits for others too: it must not be cancelled again here
            self.running -= 1
            self.ended.set()

    async def score(self, ids: list[int], top: int, on_open: OnOpen = lambda numerics: None) -> list[Token]:
        on_open("local")
        logprobs = (await asyncio.to_thread(self._logits, ids)).log_softmax(1)
        scored = [Token(ids[0])]
        for row, token in zip(logprobs, ids[1:], strict=False):
            best = row.topk(top)
            likeliest = map(Likelihood, best.indices.tolist(), best.values.tolist())
            scored.append(Token(token, float(row[token]), tuple(likeliest)))
        return scored

    async def hidden_mean(self, ids: list[int], on_open: OnOpen = lambda numerics: None) -> npt.NDArray[np.float32]:
        on_open("local")
        return (await asyncio.to_thread(self._states, ids)).mean(0).numpy()

    @torch.inference_mode()
    def _logits(self, ids: list[int]) -> torch.Tensor:
        return self.model(input_ids=torch.tensor([ids])).logits[0].float()

    @torch.inference_mode()
    def _states(self, ids: list[int]) -> torch.Tensor:
        return core_of(self.model)(input_ids=torch.tensor([ids])).last_hidden_state[0].float()

    @torch.inference_mode()
    def _forward(self, ids: list[int], cache: object) -> tuple[torch.Tensor, object]:
        output = self.model(input_ids=torch.tensor([ids]), past_key_values=cache, use_cache=True)
        return output.logits[0, -1].float(), output.past_key_values
