"""`POST /v1/chat/completions`."""

from __future__ import annotations

from collections.abc import AsyncIterator

from fastapi import Request, Response

from gateway.api.answering import Opening, streamed, whole
from gateway.api.chat.request import ChatRequest
from gateway.api.chat.shapes import ChatShapes, Told
from gateway.api.feed import Feed, unless_gone
from gateway.api.large_json import json_reply
from gateway.api.observation import Observation
from gateway.api.reading import Reading, Update
from gateway.api.reception import Reception
from gateway.api.sampling_fields import room_for
from gateway.api.shapes import Head, Shape, until_done
from gateway.conversation.prepared import Prepared, prepare
from gateway.generation.completion import ServedModel, complete
from gateway.generation.sampling import SamplingParams


class ChatCompletions:
    """Handler of the chat completion resource."""

    def __init__(self, reception: Reception) -> None:
        self._reception = reception

    async def create(self, request: Request) -> Response:
        with self._reception.observe(request) as observation:
            return await self._respond(request, observation)

    async def _respond(self, request: Request, observation: Observation) -> Response:
        asked = await self._reception.read(request, ChatRequest)
        model = self._reception.model(asked.model, observation)
        prepared = await unless_gone(request, prepare(model, asked.ask(model)))
        choices = _choices(asked, model, prepared)
        opening = Opening(model, observation.begun)
        told = Told(asked.include_usage, bool(asked.return_token_ids), bool(asked.logprobs), choices[0].stop_ids)
        head = Head("chatcmpl-", model.id, opening)
        shapes = ChatShapes(head, model.tokenizer, prepared.prompt, len(choices), told)
        observation.accepted(len(prepared.prompt))
        readers = [prepared.reader() for _ in choices]
        reading = Reading(readers, tuple(asked.stop or ()), asked.min_tokens or 0)
        pieces = complete(
            model, prepared.prompt, choices, shown=prepared.shown, on_open=opening, is_over=reading.is_over
        )
        feed = Feed(reading.updates(observation.watch(pieces)), self._reception.closing)
        if asked.stream:
            return await streamed(request, feed, opening, until_done(_chunks(feed, shapes)))
        updates = await whole(request, feed)
        return await json_reply(lambda: shapes.completion(updates))


def _choices(asked: ChatRequest, model: ServedModel, prepared: Prepared) -> list[SamplingParams]:
    """How each choice is sampled. Raises InvalidRequest."""
    return asked.choices(
        model,
        room_for(model, len(prepared.prompt), asked.token_limit, "messages"),
        asked.n or 1,
        top_logprobs=asked.told_logprobs,
        grammar=prepared.grammar,
        stop_ids=prepared.stop_ids,
    )


async def _chunks(feed: Feed[Update], shapes: ChatShapes) -> AsyncIterator[Shape]:
    """All chunks of a stream, in their order."""
    for chunk in shapes.first():
        yield chunk
    async for update in feed:
        for chunk in shapes.after(update):
            yield chunk
    for chunk in shapes.last():
        yield chunk
