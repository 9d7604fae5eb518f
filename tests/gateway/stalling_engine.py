"""An engine whose answers do not end by themselves, whatever the machine."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing

from gateway.generation.sampling import SamplingParams
from gateway.generation.tokens import OnOpen, Token
from tests.gateway.local_engine import LocalEngine


class StallingEngine(LocalEngine):
    """Makes `after` tokens of all its answers together, and then none."""

    after = 0

    async def generate(
        self, prompt: list[int], params: SamplingParams, on_open: OnOpen = lambda numerics: None
    ) -> AsyncGenerator[Token, None]:
        async with aclosing(super().generate(prompt, params, on_open)) as tokens:
            async for token in tokens:
                if self.made > self.after:
                    await asyncio.Event().wait()
                yield token
