"""Which path leads where, and what the OpenAPI document says of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fastapi import FastAPI

from gateway.api.chat.endpoint import ChatCompletions
from gateway.api.chat.request import ChatRequest
from gateway.api.completions.endpoint import Completions
from gateway.api.completions.request import CompletionRequest
from gateway.api.embeddings.endpoint import Embeddings
from gateway.api.embeddings.request import EmbeddingRequest
from gateway.api.metrics import MetricsPage
from gateway.api.models import ModelList
from gateway.api.page import FrontPage
from gateway.api.reception import Reception
from gateway.api.responses.endpoint import Responses
from gateway.api.responses.request import ResponsesRequest
from gateway.api.responses.stored import PAGE, PAGE_LIMIT, StoredResponses
from gateway.api.schema.chat import ChatCompletionChunkReply, ChatCompletionReply
from gateway.api.schema.completions import CompletionReply
from gateway.api.schema.described import describe, described
from gateway.api.schema.embeddings import EmbeddingListReply
from gateway.api.schema.models import ModelListReply, ModelReply
from gateway.api.schema.reply import Deleted
from gateway.api.schema.responses import ItemListReply, ResponseEvent, ResponseReply
from gateway.api.schema.swarm import HealthReply, SwarmReply
from gateway.api.swarm import SwarmPages
from gateway.store.responses import ResponseStore

BODIES = (ChatRequest, CompletionRequest, EmbeddingRequest, ResponsesRequest)
REPLIES = (
    ChatCompletionReply,
    ChatCompletionChunkReply,
    CompletionReply,
    EmbeddingListReply,
    ModelListReply,
    ModelReply,
    ResponseReply,
    ResponseEvent,
    ItemListReply,
    Deleted,
    HealthReply,
    SwarmReply,
)

WITH_A_SLASH = "/v1//"
"""Where clients ask, Open WebUI among them, whose base URL ends with a slash."""


def add_openai(app: FastAPI, reception: Reception) -> None:
    """What makes tokens, of OpenAI's API, and nothing that is stored."""
    chat, completions, embeddings = ChatCompletions(reception), Completions(reception), Embeddings(reception)
    for path, create in (
        ("chat/completions", chat.create),
        ("completions", completions.create),
        ("embeddings", embeddings.create),
    ):
        app.add_api_route(f"{WITH_A_SLASH}{path}", create, methods=["POST"], include_in_schema=False)
    app.add_api_route(
        "/v1/chat/completions",
        chat.create,
        methods=["POST"],
        **described(
            "createChatCompletion",
            "Answer a conversation.",
            ChatCompletionReply,
            body=ChatRequest,
            chunk=ChatCompletionChunkReply,
        ),
    )
    app.add_api_route(
        "/v1/completions",
        completions.create,
        methods=["POST"],
        **described(
            "createCompletion", "Continue texts.", CompletionReply, body=CompletionRequest, chunk=CompletionReply
        ),
    )
    app.add_api_route(
        "/v1/embeddings",
        embeddings.create,
        methods=["POST"],
        **described("createEmbedding", "Make vectors of texts.", EmbeddingListReply, body=EmbeddingRequest),
    )


def add_models(app: FastAPI, models: ModelList) -> None:
    app.add_api_route("/v1/models", models.all, **described("listModels", "List the models.", ModelListReply))
    for path in (f"{WITH_A_SLASH}models", "//models"):
        app.add_api_route(path, models.all, include_in_schema=False)
    app.add_api_route(
        "/v1/models/{model:path}", models.one, **described("retrieveModel", "Describe a model.", ModelReply)
    )


def add_responses(app: FastAPI, responses: Responses, store: ResponseStore) -> None:
    """OpenAI's responses: made, and as they are stored."""
    stored, one = StoredResponses(store), "/v1/responses/{id}"
    app.add_api_route(f"{WITH_A_SLASH}responses", responses.create, methods=["POST"], include_in_schema=False)
    app.add_api_route(
        "/v1/responses",
        responses.create,
        methods=["POST"],
        **described(
            "createResponse", "Answer, and keep the answer.", ResponseReply, body=ResponsesRequest, event=ResponseEvent
        ),
    )
    app.add_api_route(one, stored.retrieve, **described("getResponse", "Give a stored response.", ResponseReply))
    app.add_api_route(
        one, stored.delete, methods=["DELETE"], **described("deleteResponse", "Delete a stored response.", Deleted)
    )
    app.add_api_route(
        f"{one}/input_items",
        stored.input_items,
        **described("listInputItems", "Give what a response was asked with.", ItemListReply, parameters=_PAGE),
    )
    app.add_api_route(
        f"{one}/cancel",
        stored.cancel,
        methods=["POST"],
        **described("cancelResponse", "Refused: nothing runs in the background."),
    )


def add_swarm(app: FastAPI, swarm: SwarmPages, metrics: MetricsPage) -> None:
    """What is Corolla's own."""
    health = described("getHealth", "Say whether a model is whole.", HealthReply, other={503: HealthReply})
    app.add_api_route("/health", swarm.health, **health)
    app.add_api_route("/swarm", swarm.snapshot, **described("getSwarm", "Show peers and models.", SwarmReply))
    app.add_api_route(
        "/swarm/events",
        swarm.events,
        **described("followSwarm", "Show peers and models, again after each change.", event=SwarmReply),
    )
    app.add_api_route(
        "/metrics", metrics.show, **described("getMetrics", "Give counters to Prometheus.", text="text/plain")
    )
    app.add_api_route("/", FrontPage().show, **described("showPage", "Show the page for people.", text="text/html"))
    describe(app, BODIES, REPLIES)


def _parameter(name: str, description: str, schema: Mapping[str, Any]) -> dict[str, Any]:
    return {"name": name, "in": "query", "required": False, "description": description, "schema": schema}


_PAGE = (
    _parameter("limit", "Items of a page.", {"type": "integer", "minimum": 1, "maximum": PAGE_LIMIT, "default": PAGE}),
    _parameter("order", "By age.", {"type": "string", "enum": ["asc", "desc"], "default": "desc"}),
    _parameter("after", "The id of the item before the page.", {"type": "string"}),
)
