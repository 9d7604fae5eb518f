"""`POST /v1/embeddings`: mean-pooled, normalized final hidden states of a served model."""

from __future__ import annotations

import base64
from collections.abc import AsyncGenerator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from fastapi import Request, Response

from gateway.api.answering import Opening, whole
from gateway.api.embeddings.request import TOKENS_LIMIT, EmbeddingRequest
from gateway.api.feed import Feed
from gateway.api.large_json import json_reply
from gateway.api.observation import Observation
from gateway.api.raw_texts import encode_all, named
from gateway.api.reception import Reception
from gateway.generation.completion import ServedModel
from gateway.generation.merged import merged_few
from shared.errors import InvalidRequest

INPUTS_AT_ONCE = 8
"""Of one request: enough that all peers have work, and others' sessions still have room."""

Vector = npt.NDArray[np.float32]
Embedded = tuple[int, Vector]
"""The number of an input, and its embedding, (hidden,)."""


class Embeddings:
    """Handler of the embedding resource."""

    def __init__(self, reception: Reception) -> None:
        self._reception = reception

    async def create(self, request: Request) -> Response:
        with self._reception.observe(request) as observation:
            return await self._respond(request, observation)

    async def _respond(self, request: Request, observation: Observation) -> Response:
        asked = await self._reception.read(request, EmbeddingRequest)
        model = self._reception.model(asked.model, observation)
        if asked.dimensions not in (None, model.hidden_size):
            reason = (
                f"dimensions: this model's embeddings have {model.hidden_size}, and cannot be shortened: leave it out"
            )
            raise InvalidRequest(reason, "dimensions")
        inputs = await _inputs(model, asked)
        observation.accepted(tokens := sum(map(len, inputs)))
        feed = Feed(
            observation.watch(_embedded(model, inputs, Opening(model, observation.begun))), self._reception.closing
        )
        embedded = sorted(await whole(request, feed), key=lambda each: each[0])
        return await json_reply(lambda: _shape(model, asked, embedded, tokens))


async def _inputs(model: ServedModel, asked: EmbeddingRequest) -> list[list[int]]:
    """Token ids of each input. Raises InvalidRequest."""
    for name, text in named(asked.input, "input"):
        if not text:
            raise InvalidRequest(f"{name}: an empty text has no embedding: leave it out", name)
    inputs = await encode_all(model, asked.input, "input", special=asked.add_special_tokens is not False)
    for (name, _), ids in zip(named(asked.input, "input"), inputs, strict=True):
        if len(ids) > model.context_length:
            reason = (
                f"{name}: it comes to {len(ids)} tokens, and this model's context is {model.context_length}: cut it"
            )
            raise InvalidRequest(reason, name, "context_length_exceeded")
    if sum(map(len, inputs)) > TOKENS_LIMIT:
        raise InvalidRequest(
            f"input: it may come to at most {TOKENS_LIMIT} tokens: send fewer texts at a time", "input"
        )
    return inputs


def _embedded(model: ServedModel, inputs: Sequence[list[int]], opening: Opening) -> AsyncGenerator[Embedded, None]:
    """All inputs, in whatever order they are done."""

    async def embed(number: int, ids: list[int]) -> AsyncGenerator[Embedded, None]:
        yield number, _normalized(await model.engine.hidden_mean(ids, opening))

    return merged_few((embed(number, ids) for number, ids in enumerate(inputs)), INPUTS_AT_ONCE)


def _normalized(vector: Vector) -> Vector:
    """Of length 1."""
    length = float(np.linalg.norm(vector.astype(np.float64)))
    return (vector / (length or 1.0)).astype(np.float32)


def _shape(model: ServedModel, asked: EmbeddingRequest, embedded: Sequence[Embedded], tokens: int) -> dict[str, Any]:
    spell = _base64 if asked.encoding_format == "base64" else np.ndarray.tolist
    return {
        "object": "list",
        "data": [{"object": "embedding", "index": number, "embedding": spell(vector)} for number, vector in embedded],
        "model": model.id,
        "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
    }


def _base64(vector: Vector) -> str:
    """As OpenAI's clients read it: little-endian float32."""
    return base64.b64encode(vector.astype("<f4").tobytes()).decode()
