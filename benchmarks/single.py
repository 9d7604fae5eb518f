"""One stream at a time: its decode rate and the time to its first token, in turn with loops in one process."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from benchmarks.client import Endpoint
from benchmarks.prompts import Prompt, Prompts


class Source(Protocol):
    """Whatever makes tokens out of a prompt."""

    async def rate(self, prompt: Prompt, tokens: int) -> float:
        """Tokens a second after the first."""
        ...

    async def first_token_s(self, prompt: Prompt) -> float: ...


class Remote:
    """Streams through an endpoint, as its client sees them. `prompt_tokens`: its own count of the last prompt."""

    def __init__(self, endpoint: Endpoint) -> None:
        self.endpoint = endpoint
        self.prompt_tokens = 0

    async def rate(self, prompt: Prompt, tokens: int) -> float:
        return (await self.endpoint.ask(prompt.messages, tokens)).rate

    async def first_token_s(self, prompt: Prompt) -> float:
        answer = await self.endpoint.ask(prompt.messages, 1)
        self.prompt_tokens = answer.prompt_tokens
        return answer.first_token_s


@dataclass(frozen=True, slots=True)
class FirstTokens:
    """Seconds to the first token after a prompt of so many tokens, by source, one a round."""

    prompt_tokens: int
    seconds: Mapping[str, list[float]] = field(default_factory=dict)


async def decode_rates(
    sources: Mapping[str, Source], prompts: Prompts, prompt_tokens: int, tokens: int, rounds: Iterable[int]
) -> dict[str, list[float]]:
    """By source, one rate a round. All have the same prompt in a round."""
    rates: dict[str, list[float]] = {name: [] for name in sources}
    for order in _orders(sources, rounds):
        prompt = await prompts.make(prompt_tokens)
        for name in order:
            rates[name].append(await sources[name].rate(prompt, tokens))
    return rates


async def first_tokens(
    remote: Remote, sources: Mapping[str, Source], prompts: Prompts, prompt_tokens: int, rounds: Iterable[int]
) -> FirstTokens:
    """Of `sources`, which `remote` is one of. All have the same prompt in a round."""
    seconds: dict[str, list[float]] = {name: [] for name in sources}
    for order in _orders(sources, rounds):
        prompt = await prompts.make(prompt_tokens)
        for name in order:
            seconds[name].append(await sources[name].first_token_s(prompt))
    return FirstTokens(remote.prompt_tokens, seconds)


def _orders(sources: Mapping[str, Source], rounds: Iterable[int]) -> Iterator[list[str]]:
    """There and back again, since machines drift."""
    names = list(sources)
    return (names[:: -1 if turn % 2 else 1] for turn in rounds)
