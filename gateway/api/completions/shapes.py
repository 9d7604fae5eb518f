"""Completions as they go out: the object, and the chunks of a stream, which have the same shape."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from gateway.api.answering import Opening
from gateway.api.completions.logprobs import LogprobShapes, joined
from gateway.api.completions.request import CompletionRequest
from gateway.api.shapes import Head, Shape, usage
from gateway.generation.completion import Finish, Piece, ServedModel
from gateway.generation.tokens import Token


@dataclass(frozen=True, slots=True)
class Prompt:
    """One prompt of a request: its place and name there, its token ids, and its text if that is echoed."""

    number: int
    name: str
    ids: list[int]
    text: str = ""


@dataclass(frozen=True, slots=True)
class Echo:
    """A prompt that goes out before each of its completions, and its tokens, if their probabilities are asked for."""

    prompt: Prompt
    tokens: Sequence[Token]


Item = Echo | Piece
"""What an answer is made of. A piece's `choice` counts the completions of all prompts."""


class CompletionShapes:
    """What one answer's object or chunks share; with token ids, if they are asked for, as vLLM has them."""

    def __init__(
        self, model: ServedModel, asked: CompletionRequest, prompts: Sequence[Prompt], opening: Opening
    ) -> None:
        self._head = Head("cmpl-", model.id, opening)
        self._asked = asked
        self._prompts = prompts
        self._choices = [
            ChoiceShapes(index, prompts[index // asked.candidates], asked, model)
            for index in range(len(prompts) * asked.candidates)
        ]
        self._made = 0

    def completion(self, items: Sequence[Item]) -> Shape:
        """The whole answer as one object."""
        stretches: list[list[Shape]] = [[] for _ in self._choices]
        for item in items:
            for shape in self._of(item):
                stretches[shape["index"]].append(shape)
        best = [stretches[index] for index in self._best(items)]
        choices = [{**_whole(shapes), "index": index} for index, shapes in enumerate(best)]
        return self._shape(choices=choices, usage=self._usage())

    def after(self, item: Item) -> list[Shape]:
        """The chunks that an item makes."""
        absent = {"usage": None} if self._include_usage else {}
        return [self._shape(choices=[choice], **absent) for choice in self._of(item)]

    def last(self) -> list[Shape]:
        """The chunk with the usage, if that is asked for."""
        return [self._shape(choices=[], usage=self._usage())] if self._include_usage else []

    def _of(self, item: Item) -> list[Shape]:
        if isinstance(item, Echo):
            first = item.prompt.number * self._asked.candidates
            return [each.echo(item) for each in self._choices[first : first + self._asked.candidates]]
        self._made += len(item.tokens)
        return [self._choices[item.choice].of(item)]

    def _best(self, items: Sequence[Item]) -> list[int]:
        """Which choices go out: of each prompt the `n` with the highest log probability a token, best first."""
        asked = self._asked
        if asked.candidates == asked.given:
            return list(range(len(self._choices)))
        likelihood, tokens = [0.0] * len(self._choices), [0] * len(self._choices)
        for piece in (item for item in items if isinstance(item, Piece)):
            likelihood[piece.choice] += sum(token.logprob or 0.0 for token in piece.tokens)
            tokens[piece.choice] += len(piece.tokens)
        order = sorted(range(len(tokens)), key=lambda each: -likelihood[each] / max(1, tokens[each]))
        return [
            index
            for prompt in range(len(self._prompts))
            for index in [each for each in order if each // asked.candidates == prompt][: asked.given]
        ]

    @property
    def _include_usage(self) -> bool:
        return bool(self._asked.stream_options and self._asked.stream_options.include_usage)

    def _usage(self) -> Shape:
        return usage(sum(len(prompt.ids) for prompt in self._prompts), self._made)

    def _shape(self, **fields: Any) -> Shape:
        return self._head.shape("text_completion", **fields)


class ChoiceShapes:
    """One choice, stretch by stretch."""

    def __init__(self, index: int, prompt: Prompt, asked: CompletionRequest, model: ServedModel) -> None:
        self._index = index
        self._prompt = prompt
        self._asked = asked
        self._logprobs = LogprobShapes(model.tokenizer, bool(asked.return_tokens_as_token_ids))
        self._begun = False

    def echo(self, item: Echo) -> Shape:
        """The prompt, which is all there is where no tokens are to come."""
        scores = self._logprobs.echo(item.prompt.text, item.tokens) if self._asked.scores_prompt else None
        return self._shape(item.prompt.text, scores, (), None if self._asked.token_limit else "length")

    def of(self, piece: Piece) -> Shape:
        scores = None if self._asked.logprobs is None else self._logprobs.of(piece.text, piece.tokens)
        return self._shape(piece.text, scores, piece.ids, piece.finish)

    def _shape(self, text: str, logprobs: Shape | None, ids: Sequence[int], finish: Finish | None) -> Shape:
        shape = {"index": self._index, "text": text, "logprobs": logprobs, "finish_reason": finish}
        if self._asked.return_token_ids:
            shape["token_ids"] = list(ids)
            if not self._begun:
                shape["prompt_token_ids"] = self._prompt.ids
        self._begun = True
        return shape


def _whole(stretches: Sequence[Shape]) -> Shape:
    """One choice of all its stretches."""
    shape = {**stretches[0], "text": "".join(each["text"] for each in stretches)}
    shape["finish_reason"] = stretches[-1]["finish_reason"]
    if shape["logprobs"] is not None:
        shape["logprobs"] = joined([each["logprobs"] for each in stretches])
    if "token_ids" in shape:
        shape["token_ids"] = [token for each in stretches for token in each["token_ids"]]
    return shape
