"""`POST /v1/chat/completions`."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator
from contextlib import aclosing

from fastapi import Request, Response
from fastapi.responses import JSONResponse

from gateway.api.body import check, read_json
from gateway.api.chat_request import ChatRequest
from gateway.api.chat_shapes import ChatShapes, Shape, event_data
from gateway.api.errors import reply_to
from gateway.api.event_stream import EventStream
from gateway.api.feed import Feed, unless_gone
from gateway.api.models import Models
from gateway.api.observation import Observation
from gateway.api.unsupported import refuse_unsupported
from gateway.generation.completion import Piece, ServedModel, complete
from gateway.generation.sampling import SamplingParams
from gateway.metrics import RequestMetrics
from shared.errors import InvalidRequest

DEFAULT_MAX_TOKENS = 1024
FIRST_PIECE_S = 15  # after the wait for cache; until then an error becomes a status, then comments keep a stream alive


class ChatCompletions:
    """Handler of the chat completion resource. `closing` is set when the program ends."""

    def __init__(self, models: Models, metrics: RequestMetrics, body_limit_bytes: int, closing: asyncio.Event) -> None:
        self._models = models
        self._metrics = metrics
        self._body_limit_bytes = body_limit_bytes
        self._closing = closing

    async def create(self, request: Request) -> Response:
        observation = Observation(self._metrics.arrived(), self._closing)
        try:
            return await self._respond(request, observation)
        except BaseException as error:
            observation.failed(error)
            raise

    async def _respond(self, request: Request, observation: Observation) -> Response:
        body = await read_json(request, self._body_limit_bytes)
        refuse_unsupported(body)
        asked = check(ChatRequest, body)
        model = self._models.get(asked.model)
        observation.asks(model.id)
        prompt = await model.tokenizer.encode_chat([message.for_template() for message in asked.messages])
        params = sampling_params(asked, model, len(prompt))
        include_usage = bool(asked.stream_options and asked.stream_options.include_usage)
        shapes = ChatShapes(model.id, prompt, include_usage, bool(asked.return_token_ids))
        observation.accepted(len(prompt))
        opened = asyncio.Event()
        pieces = complete(model, prompt, params, tuple(asked.stop or ()), opened.set)
        feed = Feed(observation.watch(pieces), self._closing)
        return await (_stream(request, feed, shapes, opened) if asked.stream else _answer(request, feed, shapes))


def sampling_params(asked: ChatRequest, model: ServedModel, prompt_tokens: int) -> SamplingParams:
    """What is asked for, with OpenAI's defaults, within the model's context. Raises InvalidRequest."""
    room = model.context_length - prompt_tokens
    if room < 1:
        reason = (
            f"the messages come to {prompt_tokens} tokens, and this model's context is {model.context_length} tokens, "
            "the answer's included: shorten the messages"
        )
        raise InvalidRequest(reason, "messages", "context_length_exceeded")
    return SamplingParams(
        temperature=1.0 if asked.temperature is None else asked.temperature,
        top_p=1.0 if asked.top_p is None else asked.top_p,
        top_k=max(asked.top_k or 0, 0),
        seed=secrets.randbits(64) if asked.seed is None else asked.seed,
        max_tokens=min(asked.token_limit or DEFAULT_MAX_TOKENS, room),
        stop_ids=model.end_ids,
    )


async def _answer(request: Request, feed: Feed[Piece], shapes: ChatShapes) -> Response:
    async with aclosing(feed):
        pieces = await unless_gone(request, _collect(feed))
    return JSONResponse(shapes.completion(pieces))


async def _collect(feed: Feed[Piece]) -> list[Piece]:
    return [piece async for piece in feed]


async def _stream(request: Request, feed: Feed[Piece], shapes: ChatShapes, opened: asyncio.Event) -> Response:
    """While a request waits for cache, which it may do for longer than `FIRST_PIECE_S`, nothing is sent."""
    try:
        await unless_gone(request, feed.begun(FIRST_PIECE_S, opened))
    except BaseException:
        await feed.aclose()
        raise
    return EventStream(_events(feed, shapes), feed)


async def _events(feed: Feed[Piece], shapes: ChatShapes) -> AsyncIterator[str]:
    """The stream's data: chunks and `[DONE]`, or, when generation fails midway, an error instead of the rest."""
    yield event_data(shapes.first())
    try:
        async for piece in feed:
            for chunk in shapes.after(piece):
                yield event_data(chunk)
    except Exception as error:  # noqa: BLE001  the status is sent: this event is the one way left to tell
        failed: Shape = reply_to(error).body
        yield event_data(failed)
        return
    yield "[DONE]"
