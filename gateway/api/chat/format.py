"""The formats that a chat completion request may hold its answer to."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from gateway.api.request_model import Strict, described_as
from gateway.conversation.ask import AnswerFormat, JsonObject, JsonSchema


class JsonSchemaField(Strict):
    """A schema by name. It is kept to whether it is `strict` or not: what cannot be kept to is refused either way."""

    name: Annotated[str, Field(pattern=r"^[a-zA-Z0-9_-]{1,64}$")]
    description: str | None = None
    schema_: Annotated[dict[str, Any] | None, Field(alias="schema")] = None
    strict: bool | None = None


class ResponseFormat(Strict):
    """`response_format`. A schema that is left out is kept to by any JSON."""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchemaField | None = None

    @model_validator(mode="after")
    def _is_whole(self) -> ResponseFormat:
        if self.type == "json_schema" and self.json_schema is None:
            raise ValueError("a format of type 'json_schema' must have a 'json_schema'")
        return self

    @property
    def asked(self) -> AnswerFormat:
        if self.type == "json_object":
            return JsonObject()
        if self.type == "text" or self.json_schema is None:
            return None
        return JsonSchema(self.json_schema.schema_ or {}, "response_format.json_schema.schema")


class PlainFormat(Strict):
    """Any text, or any JSON object."""

    type: Literal["text", "json_object"]


class JsonSchemaFormat(Strict):
    """JSON that keeps to a schema."""

    type: Literal["json_schema"]
    json_schema: JsonSchemaField


FormatField = Annotated[ResponseFormat | None, described_as(PlainFormat | JsonSchemaFormat | None)]
