"""Chat completions as they go out: the object, and the chunks of a stream in the order that clients depend on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from gateway.api.chat.draft import Draft, delta_of
from gateway.api.logprobs import token_logprobs
from gateway.api.reading import Tally, Update
from gateway.api.shapes import Head, Shape, usage
from gateway.generation.tokenizer import TextTokenizer
from gateway.generation.tokens import Token


@dataclass(frozen=True, slots=True)
class Told:
    """What is told of an answer beside its message, and what that needs.

    With `ids` there are token ids as vLLM has them: `prompt_token_ids` once, each choice its `token_ids`. With
    `logprobs` each choice has those of all tokens that were made, thinking and calls too; but not of one of `end_ids`,
    which says no more than the finish reason.
    """

    usage: bool
    ids: bool
    logprobs: bool
    end_ids: frozenset[int]


class ChatShapes:
    """What one answer's object or chunks share. The role comes once in each choice, `usage` in a chunk of its own."""

    def __init__(self, head: Head, tokenizer: TextTokenizer, prompt: Sequence[int], choices: int, told: Told) -> None:
        self._head = head
        self._tokenizer = tokenizer
        self._prompt = prompt
        self._told = told
        self._tally = Tally()
        self._held: list[list[Token]] = [[] for _ in range(choices)]  # tokens that no chunk has told of yet

    def completion(self, updates: Sequence[Update]) -> Shape:
        """The whole answer as one object."""
        drafts = [Draft() for _ in self._held]
        for update in updates:
            self._tally.add(update)
            drafts[update.choice].add(update)
        choices = [
            self._choice(index, {"message": draft.message()}, draft.tokens, draft.finish)
            for index, draft in enumerate(drafts)
        ]
        return self._shape("chat.completion", choices=choices, usage=self._usage(), **self._prompt_ids())

    def first(self) -> list[Shape]:
        """The chunks by which the choices begin."""
        role = {"role": "assistant", "content": "", "refusal": None}
        chunks = [self._chunk(index, role, ()) for index in range(len(self._held))]
        chunks[0].update(self._prompt_ids())
        return chunks

    def after(self, update: Update) -> list[Shape]:
        """The chunks that an update makes: its parts, and with a choice's last one its finish reason."""
        self._tally.add(update)
        held = self._held[update.choice]
        held += update.tokens
        chunks = []
        for part in update.parts:
            chunks.append(self._chunk(update.choice, delta_of(part), held))
            held.clear()  # they are told of once
        if update.finish:
            chunks.append(self._chunk(update.choice, {}, held, update.finish))
        return chunks

    def last(self) -> list[Shape]:
        """The chunk behind all choices, if it is asked for."""
        return [self._shape("chat.completion.chunk", choices=[], usage=self._usage())] if self._told.usage else []

    def _chunk(self, index: int, delta: Shape, tokens: Sequence[Token], finish: str | None = None) -> Shape:
        absent = {"usage": None} if self._told.usage else {}
        choice = self._choice(index, {"delta": delta}, tokens, finish)
        return self._shape("chat.completion.chunk", choices=[choice], **absent)

    def _choice(self, index: int, said: Shape, tokens: Sequence[Token], finish: str | None) -> Shape:
        ids = {"token_ids": [token.id for token in tokens]} if self._told.ids else {}
        return {"index": index, **said, "logprobs": self._logprobs(tokens), "finish_reason": finish, **ids}

    def _logprobs(self, tokens: Sequence[Token]) -> Shape | None:
        told = [token for token in tokens if token.id not in self._told.end_ids]
        if not self._told.logprobs:
            return None
        return {"content": token_logprobs(self._tokenizer, told), "refusal": None}

    def _usage(self) -> Shape:
        return usage(len(self._prompt), self._tally.made, self._tally.reasoning)

    def _prompt_ids(self) -> Shape:
        return {"prompt_token_ids": list(self._prompt)} if self._told.ids else {}

    def _shape(self, kind: str, **fields: Any) -> Shape:
        return self._head.shape(kind, service_tier="default", **fields)
