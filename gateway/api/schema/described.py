"""How routes are described in the OpenAPI document: FastAPI's own, with the bodies that handlers read themselves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel
from pydantic.json_schema import JsonSchemaMode, models_json_schema

from gateway.api.access import OPEN
from gateway.api.boundary import HEADERS
from gateway.api.limits import RATE_HEADERS
from gateway.api.schema.reply import ErrorReply

REF = "#/components/schemas/{model}"
BEARER = {
    "type": "http",
    "scheme": "bearer",
    "description": "A key of `gateway keys create`, where it is asked for.",
}
JSON = {"contentMediaType": "application/json"}
ALWAYS = {name: {"required": True, "schema": {"type": "string"}} for name in HEADERS}
LIMITS = {name: {"schema": {"type": "string"}, "description": "To a key with limits."} for name in RATE_HEADERS}
RETRY = {"retry-after": {"schema": {"type": "string"}, "description": "Seconds after which another try may succeed."}}


def described(
    name: str,
    summary: str,
    reply: type[BaseModel] | None = None,
    *,
    body: type[BaseModel] | None = None,
    event: type[BaseModel] | None = None,
    chunk: type[BaseModel] | None = None,
    other: Mapping[int | str, type[BaseModel]] | None = None,
    text: str | None = None,
    parameters: Sequence[Mapping[str, Any]] = (),
) -> dict[str, Any]:
    """Arguments of `add_api_route`: a request's `body`, the `reply`, the data of each `event` of a stream.

    Or of each `chunk`: `[DONE]` comes after them, or an error instead of the rest. Clients that are generated call the
    operation by `name`. `other` are replies with other statuses, `text` is the media type of one that is no JSON,
    `parameters` those of the query. What has no reply is never answered with a 200.
    """
    content: dict[str, Any] = {"application/json": {"schema": _ref(reply)}} if reply else {}
    if event:
        content["text/event-stream"] = {"schema": _event({"contentSchema": _ref(event), **JSON})}
    if chunk:
        data = {"contentSchema": {"anyOf": [_ref(chunk), _ref(ErrorReply)]}, **JSON}
        content["text/event-stream"] = {"schema": _event({"anyOf": [{"const": "[DONE]"}, data]})}
    if text:
        content[text] = {"schema": {"type": "string"}}
    replies: dict[int | str, Any] = {200: _reply("Done.", content)} if content else {}
    replies |= {"4XX": _error("The request cannot be served as it stands."), "5XX": _error("The swarm or the gateway.")}
    for status, model in (other or {}).items():
        replies[status] = _reply(summary, {"application/json": {"schema": _ref(model)}})
    extra: dict[str, Any] = {"security": [{}, {"bearer": []}]}
    if body:
        extra["requestBody"] = {"required": True, "content": {"application/json": {"schema": _ref(body)}}}
    if parameters:
        extra["parameters"] = list(parameters)
    told = {"operation_id": name, "summary": summary, "responses": replies}
    return {**told, "openapi_extra": extra, "response_model": None}


def describe(app: FastAPI, bodies: Sequence[type[BaseModel]], replies: Sequence[type[BaseModel]]) -> None:
    """Let the application's document have these models too, to which its routes refer."""

    def document() -> dict[str, Any]:
        if app.openapi_schema is None:
            app.openapi_schema = _document(app, bodies, replies)
        return app.openapi_schema

    app.openapi = document  # as FastAPI's documentation has it


def _document(app: FastAPI, bodies: Sequence[type[BaseModel]], replies: Sequence[type[BaseModel]]) -> dict[str, Any]:
    document = get_openapi(title=app.title, version=app.version, summary=app.summary, routes=app.routes)
    for path, operations in document["paths"].items():
        for operation in operations.values():
            operation.update({"tags": [_tag(path)]} | ({"security": []} if path in OPEN else {}))
    components = document.setdefault("components", {})
    components["securitySchemes"] = {"bearer": BEARER}
    schemas = components.setdefault("schemas", {})
    modes: tuple[tuple[Sequence[type[BaseModel]], JsonSchemaMode], ...] = (
        (bodies, "validation"),
        ((*replies, ErrorReply), "serialization"),
    )
    for models, mode in modes:
        wanted: list[tuple[type[BaseModel], JsonSchemaMode]] = [(model, mode) for model in models]
        _, definitions = models_json_schema(wanted, ref_template=REF)
        for name, schema in definitions["$defs"].items():
            assert schemas.setdefault(name, schema) == schema, f"two models are named {name}"
    return document


def _tag(path: str) -> str:
    """The resource of OpenAI's that is meant, or that it is Corolla's own."""
    return path.split("/")[2] if path.startswith("/v1/") else "swarm"


def _event(data: Mapping[str, Any]) -> dict[str, Any]:
    """An event of a stream, as OpenAPI 3.2 has them: an object of its fields."""
    fields = {"event": {"type": "string"}, "data": {"type": "string", **data}}
    return {"type": "object", "required": ["data"], "properties": fields}


def _error(description: str) -> dict[str, Any]:
    return _reply(description, {"application/json": {"schema": _ref(ErrorReply)}}, RETRY)


def _reply(description: str, content: Mapping[str, Any], headers: Mapping[str, Any] | None = None) -> dict[str, Any]:
    return {"description": description, "content": content, "headers": {**ALWAYS, **LIMITS, **(headers or {})}}


def _ref(model: type[BaseModel]) -> dict[str, str]:
    return {"$ref": REF.format(model=model.__name__)}
