"""`POST /v1/responses`."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress

from fastapi import Request, Response

from gateway.api.answering import Opening, streamed, whole
from gateway.api.caller import caller_of
from gateway.api.errors import reply_to
from gateway.api.event_stream import NamedEvent
from gateway.api.feed import Feed, unless_gone
from gateway.api.large_json import json_reply
from gateway.api.observation import Observation
from gateway.api.reading import Reading, Update
from gateway.api.reception import Reception
from gateway.api.responses.answer import ResponseAnswer
from gateway.api.responses.conversation import messages_of
from gateway.api.responses.history import History
from gateway.api.responses.items import Item, ItemIds, checked
from gateway.api.responses.prompt import prompt_of
from gateway.api.responses.request import ResponsesRequest
from gateway.api.responses.shapes import Numbered, ResponseShapes
from gateway.api.responses.tools import toolbox
from gateway.api.sampling_fields import room_for
from gateway.api.shapes import Shape
from gateway.conversation.ask import ChatMessage
from gateway.generation.completion import complete
from gateway.store.responses import ResponseStore, StoredResponse
from shared.errors import CorollaError


class Responses:
    """Handler that creates responses."""

    def __init__(self, reception: Reception, store: ResponseStore) -> None:
        self._reception = reception
        self._store = store

    async def create(self, request: Request) -> Response:
        with self._reception.observe(request) as observation:
            return await self._respond(request, observation)

    async def _respond(self, request: Request, observation: Observation) -> Response:
        asked = await self._reception.read(request, ResponsesRequest)
        model = self._reception.model(asked.model, observation)
        tools = toolbox(asked.tools or (), asked.tool_choice or "auto")
        ids, owner = ItemIds(), caller_of(request).id
        items, messages = await _conversation(asked, History(self._store, owner), ids)
        prompt = await unless_gone(request, prompt_of(model, asked, tools, messages))
        prepared = prompt.prepared
        limit = room_for(model, len(prepared.prompt), asked.max_output_tokens, "input")
        choices = asked.choices(
            model, limit, top_logprobs=asked.wanted_logprobs, grammar=prepared.grammar, stop_ids=prepared.stop_ids
        )
        shapes = ResponseShapes(ids.response, model, asked, tools, prompt.strict)
        answer = ResponseAnswer(model, choices[0], len(prepared.prompt), shapes, ids)
        reading, opening = Reading([prepared.reader()]), Opening(model, observation.begun)
        observation.accepted(len(prepared.prompt))
        pieces = complete(
            model, prepared.prompt, choices, shown=prepared.shown, on_open=opening, is_over=reading.is_over
        )
        feed = Feed(reading.updates(observation.watch(pieces)), self._reception.closing)
        record = _Record(self._store, owner, asked, items)
        if asked.stream:
            return await streamed(request, feed, opening, _events(feed, answer, record))
        for update in await whole(request, feed):
            answer.take(update)
        response = await record.kept(answer.response())
        return await json_reply(lambda: response)


async def _conversation(
    asked: ResponsesRequest, history: History, ids: ItemIds
) -> tuple[list[Item], list[ChatMessage]]:
    """The items of the input, as they are stored, and all that the model is told."""
    past = await history.before(asked.previous_response_id)
    given = await asyncio.to_thread(checked, asked.input)  # a long conversation has thousands of items
    items = await history.resolved(given, past, ids)
    return items, await asyncio.to_thread(messages_of, [*past, *items], asked.instructions)


class _Record:
    """Where a response is kept when it has ended, if it is to be."""

    def __init__(self, store: ResponseStore, owner: str, asked: ResponsesRequest, items: list[Item]) -> None:
        self._store = store
        self._owner = owner
        self._asked = asked
        self._items = items

    async def kept(self, response: Shape) -> Shape:
        """The response, stored. Raises StoreUnavailable, and InvalidRequest where it is too large."""
        if self._asked.stored:
            stored = StoredResponse(
                id=response["id"],
                owner=self._owner,
                created_at=response["created_at"],
                model=self._asked.model,
                previous=self._asked.previous_response_id,
                body=response,
                input=self._items,
            )
            await self._store.put(stored)
        return response


async def _events(feed: Feed[Update], answer: ResponseAnswer, record: _Record) -> AsyncIterator[NamedEvent]:
    """The stream's events. When generation fails midway, `response.failed` and an error come instead of the rest."""
    numbered = Numbered()
    yield numbered.state(answer.shapes.in_progress(), "created")
    yield numbered.state(answer.shapes.in_progress())
    try:
        async for update in feed:
            for event in answer.take(update):
                yield numbered.event(event)
        yield numbered.state(await record.kept(answer.response()))
    except Exception as error:  # noqa: BLE001  the status is sent: these events are the one way left to tell
        reply = reply_to(error)
        failed = answer.failed(reply)
        with suppress(CorollaError):  # it is told either way, perhaps for that very reason
            await record.kept(failed)
        yield numbered.state(failed)
        yield numbered.error(reply)
