"""A model that says what a test wants it to say, token by token."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence

from gateway.generation.completion import ServedModel
from gateway.generation.sampling import SamplingParams
from gateway.generation.tokens import OnOpen, Token


class Reciting:
    """An engine whose choices all say `text`, and the end token after it.

    `made` counts tokens, `running` the choices that have begun and not ended.
    """

    def __init__(self, model: ServedModel, text: str) -> None:
        self._model, self._text = model, text
        self._end = min(model.end_ids)
        self.made = 0
        self.running = 0

    def generate_each(
        self, prompt: list[int], choices: Sequence[SamplingParams], on_open: OnOpen = lambda numerics: None
    ) -> Sequence[AsyncGenerator[Token, None]]:
        on_open("recited")
        return [self._recite(params) for params in choices]

    async def _recite(self, params: SamplingParams) -> AsyncGenerator[Token, None]:
        self.running += 1
        try:
            ids = await self._model.tokenizer.encode_text(self._text, special=False)
            for token in [*ids, self._end][: params.max_tokens]:
                self.made += 1
                await asyncio.sleep(0)  # others have their turn, as while a chain computes
                yield Token(token, -0.5 if params.top_logprobs is not None else None)
        finally:
            self.running -= 1
