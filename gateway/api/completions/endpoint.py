"""`POST /v1/completions`."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from dataclasses import replace

from fastapi import Request, Response

from gateway.api.answering import Opening, streamed, whole
from gateway.api.chat.request import CHOICES
from gateway.api.completions.request import SCORES_LIMIT, CompletionRequest
from gateway.api.completions.shapes import CompletionShapes, Echo, Item, Prompt
from gateway.api.feed import Feed
from gateway.api.large_json import json_reply
from gateway.api.observation import Observation
from gateway.api.raw_texts import RawText, encode_all, named
from gateway.api.reception import Reception
from gateway.api.sampling_fields import room_for
from gateway.api.shapes import error_data, event_data
from gateway.conversation.ask import JsonObject, JsonSchema
from gateway.generation.completion import ServedModel, complete
from gateway.generation.grammar import Grammar
from gateway.generation.merged import merged_few
from gateway.generation.sampling import SamplingParams
from gateway.generation.tokens import Token
from shared.errors import InvalidRequest

PROMPTS_AT_ONCE, SESSIONS_AT_ONCE = 8, CHOICES
"""Of one request. More would be no faster: a peer's forward has some sessions at a time, and others want room too."""


class Completions:
    """Handler of the completion resource."""

    def __init__(self, reception: Reception) -> None:
        self._reception = reception

    async def create(self, request: Request) -> Response:
        with self._reception.observe(request) as observation:
            return await self._respond(request, observation)

    async def _respond(self, request: Request, observation: Observation) -> Response:
        asked = await self._reception.read(request, CompletionRequest)
        model = self._reception.model(asked.model, observation)
        prompts = await prompts_of(model, asked)
        work = Work(model, asked, prompts, await grammar_of(model, asked), Opening(model, observation.begun))
        observation.accepted(sum(len(prompt.ids) for prompt in work.prompts))
        shapes = CompletionShapes(model, asked, work.prompts, work.opening)
        feed = Feed(observation.watch(work.items()), self._reception.closing)
        if asked.stream:
            return await streamed(request, feed, work.opening, _events(feed, shapes))
        items = await whole(request, feed)
        return await json_reply(lambda: shapes.completion(items))


class Work:
    """What one request asks of a model."""

    def __init__(
        self,
        model: ServedModel,
        asked: CompletionRequest,
        prompts: list[Prompt],
        grammar: Grammar | None,
        opening: Opening,
    ) -> None:
        """Raises InvalidRequest."""
        self.prompts = prompts
        self.opening = opening
        self._model = model
        self._asked = asked
        self._grammar = grammar
        self._params = [self._params_of(prompt) for prompt in prompts]

    def items(self) -> AsyncGenerator[Item, None]:
        """The completions of all prompts, piece by piece as they come; of each its echo first."""
        at_once = min(PROMPTS_AT_ONCE, SESSIONS_AT_ONCE // self._asked.candidates)
        return merged_few(map(self._answer, self.prompts, self._params), at_once)

    async def _answer(self, prompt: Prompt, choices: list[SamplingParams]) -> AsyncGenerator[Item, None]:
        if self._asked.echo:
            yield Echo(prompt, await self._score(prompt) if self._asked.scores_prompt else ())
        if not choices:
            return
        pieces = complete(self._model, prompt.ids, choices, tuple(self._asked.stop or ()), on_open=self.opening)
        async with aclosing(pieces):
            async for piece in pieces:
                yield replace(piece, choice=prompt.number * len(choices) + piece.choice)

    async def _score(self, prompt: Prompt) -> list[Token]:
        return await self._model.engine.score(prompt.ids, self._asked.logprobs or 0, self.opening)

    def _params_of(self, prompt: Prompt) -> list[SamplingParams]:
        """How each completion of a prompt is sampled: as if the prompt were alone."""
        asked, tokens = self._asked, len(prompt.ids)
        if not asked.token_limit and tokens <= self._model.context_length:
            return []
        limit = room_for(self._model, tokens, asked.token_limit, prompt.name)
        told = asked.told_logprobs
        return asked.choices(self._model, limit, asked.candidates, top_logprobs=told, grammar=self._grammar)


async def prompts_of(model: ServedModel, asked: CompletionRequest) -> list[Prompt]:
    """Raises InvalidRequest."""
    ids = await encode_all(model, asked.texts, "prompt", special=asked.add_special_tokens is not False)
    if asked.scores_prompt and sum(map(len, ids)) * ((asked.logprobs or 0) + 1) * asked.candidates > SCORES_LIMIT:
        reason = f"logprobs: with echo, at most {SCORES_LIMIT} log probabilities are told at once: send fewer prompts"
        raise InvalidRequest(reason, "logprobs")
    return [
        Prompt(number, name, ids[number], await _text_of(model, text, ids[number]) if asked.echo else "")
        for number, (name, text) in enumerate(named(asked.texts, "prompt"))
    ]


async def grammar_of(model: ServedModel, asked: CompletionRequest) -> Grammar | None:
    """What the completions have to keep to. Raises InvalidRequest."""
    match asked.format:
        case JsonSchema(schema, param):
            return await model.grammars.json_schema(schema, param)
        case JsonObject():
            return await model.grammars.json_object()
    return None


async def _text_of(model: ServedModel, text: RawText, ids: list[int]) -> str:
    """A prompt that came as token ids is told with all of them, also those that are special."""
    if isinstance(text, str):
        return text
    return await asyncio.to_thread(model.tokenizer.decode, ids, model.tokenizer.special_ids)


async def _events(feed: Feed[Item], shapes: CompletionShapes) -> AsyncIterator[str]:
    """The stream's data: chunks and `[DONE]`, or, when generation fails midway, an error instead of the rest."""
    try:
        async for item in feed:
            for chunk in await _chunks(shapes, item):
                yield chunk
        for chunk in shapes.last():
            yield event_data(chunk)
    except Exception as error:  # noqa: BLE001  the status is sent: this event is the one way left to tell
        yield error_data(error)
        return
    yield "[DONE]"


async def _chunks(shapes: CompletionShapes, item: Item) -> list[str]:
    def made() -> list[str]:
        return [event_data(chunk) for chunk in shapes.after(item)]

    return await asyncio.to_thread(made) if isinstance(item, Echo) else made()  # a prompt may be long
