"""Prompts of as many tokens as asked for, every one another: no two can share what is computed for them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from random import Random

from benchmarks.client import Endpoint, Message

Count = Callable[[list[Message]], Awaitable[int]]
"""Tokens of messages, the chat template's own included."""

Encode = Callable[[list[Message]], Awaitable[list[int]]]
"""Messages to token ids."""

REQUEST = "Write a long story about"  # small models answer it at length
SYSTEM: Message = {"role": "system", "content": "Tell stories."}
"""Stands in for the longer one that many chat templates put in by themselves, where that leaves too little room."""

WORDS = (  # each is one token, with the space before it, to nearly every tokenizer
    "the of and to in is that for it was on are as with they be at one have this from by hot but some what there we "
    "can out other were all your when up use word how said an each she which do their time if will way about many "
    "then them would write like so these her long make thing see him two has look more day could go come did my sound "
    "no most number who over know water than call first people may down side been now find"
)
ROOM, TRIES = 12, 24


@dataclass(frozen=True, slots=True)
class Prompt:
    """Messages that come to so many tokens."""

    messages: list[Message]
    tokens: int


class Prompts:
    """Makes prompts by counting: words are added or taken away until the count is right."""

    def __init__(self, count: Count) -> None:
        self._count = count
        self._made = 0

    async def make(self, tokens: int) -> Prompt:
        """A new prompt of so many tokens; of the nearest number, if a model's template cannot give exactly that."""
        self._made += 1
        random = Random(self._made)
        head = [] if tokens - await self._count(_messages([], [])) >= ROOM else [SYSTEM]
        bare = await self._count(_messages(head, []))
        length, best = max(1, tokens - bare), None
        for _ in range(TRIES):
            messages = _messages(head, random.choices(WORDS.split(), k=length))
            found = await self._count(messages)
            if best is None or abs(found - tokens) < abs(best.tokens - tokens):
                best = Prompt(messages, found)
            if found == tokens:
                break
            tokens_a_word = max(1.0, (found - bare) / length)
            length = max(1, length + round((tokens - found) / tokens_a_word))
        assert best
        return best


def counted_by(encode: Encode) -> Count:
    async def count(messages: list[Message]) -> int:
        return len(await encode(messages))

    return count


async def estimated_by(endpoint: Endpoint) -> Count:
    """Without the tokenizer: the endpoint's own count of a short prompt, and one token a word for every other one.

    It is never sent the prompts themselves: it might keep what it has computed for them.
    """
    own: dict[int, int] = {}
    for head in ((), (SYSTEM,)):
        asked = await endpoint.ask(_messages([*head], WORDS.split()[:ROOM]), 1)
        own[len(head)] = asked.prompt_tokens - ROOM

    async def count(messages: list[Message]) -> int:
        words = len(messages[-1]["content"].split()) - len(REQUEST.split())
        return own[len(messages) - 1] + words

    return count


def _messages(head: list[Message], words: Sequence[str]) -> list[Message]:
    return [*head, {"role": "user", "content": " ".join([REQUEST, *words])}]
