"""What a response is asked with: input items and tools by their types, for the OpenAPI document."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from gateway.api.chat.tools import TOOLS, ToolName
from gateway.api.request_model import Strict
from gateway.api.responses.items import ID_CHARACTERS, ITEMS, PARTS
from gateway.api.schema.messages import RefusalPart

Id = Annotated[str, Field(min_length=1, max_length=ID_CHARACTERS)]


class InputTextPart(Strict):
    """A text; both types are taken of everybody."""

    type: Literal["input_text", "output_text"]
    text: str


Texts = str | Annotated[list[InputTextPart], Field(min_length=1, max_length=PARTS)]
Said = str | Annotated[list[InputTextPart | RefusalPart], Field(min_length=1, max_length=PARTS)]


class InputMessage(Strict):
    """What the model is told."""

    type: Literal["message"] = "message"
    id: Id | None = None
    role: Literal["system", "developer", "user"]
    content: Texts


class InputAnswer(Strict):
    """What the model has answered before."""

    type: Literal["message"] = "message"
    id: Id | None = None
    role: Literal["assistant"]
    content: Said


class InputFunctionCall(Strict):
    """A call that the model has made before."""

    type: Literal["function_call"]
    id: Id | None = None
    call_id: Id
    name: Id
    arguments: str = Field(description="A JSON text.")


class InputFunctionCallOutput(Strict):
    """What a function has given back. Its call comes before it, here or in an earlier turn."""

    type: Literal["function_call_output"]
    id: Id | None = None
    call_id: Id
    output: Texts


class ThoughtPart(Strict):
    type: Literal["reasoning_text", "summary_text"]
    text: str


Thoughts = Annotated[list[ThoughtPart], Field(max_length=PARTS)]


class InputReasoning(Strict):
    """What the model has thought before."""

    type: Literal["reasoning"]
    id: Id | None = None
    summary: Thoughts | None = None
    content: Thoughts | None = None
    encrypted_content: str | None = None


class InputReference(Strict):
    """An item that is stored already."""

    type: Literal["item_reference"] | None = None
    id: Id


InputItem = InputMessage | InputAnswer | InputFunctionCall | InputFunctionCallOutput | InputReasoning | InputReference
WrittenInput = str | Annotated[list[InputItem], Field(max_length=ITEMS)]


class FunctionTool(Strict):
    """A function that the model may call."""

    type: Literal["function"]
    name: ToolName
    description: str | None = None
    parameters: dict[str, Any] | None = Field(default=None, description="A JSON schema.")
    strict: bool | None = None


class OtherTool(Strict):
    """A tool of another type is ignored."""

    type: Annotated[str, Field(json_schema_extra={"not": {"const": "function"}})]


WrittenTools = Annotated[list[FunctionTool | OtherTool], Field(max_length=TOOLS)]


class ChosenFunction(Strict):
    """A function by its name alone."""

    type: Literal["function"]
    name: ToolName


class SomeFunctions(Strict):
    """Some of the functions: others are not to be called now."""

    type: Literal["allowed_tools"]
    mode: Literal["auto", "required"]
    tools: Annotated[list[ChosenFunction], Field(min_length=1, max_length=TOOLS)]


WrittenChoice = Literal["auto", "none", "required"] | ChosenFunction | SomeFunctions


class PlainTextFormat(Strict):
    """Any text, or any JSON object."""

    type: Literal["text", "json_object"]


class SchemaTextFormat(Strict):
    """JSON that keeps to a schema, `strict` or not."""

    type: Literal["json_schema"]
    name: ToolName
    description: str | None = None
    schema_: Annotated[dict[str, Any], Field(alias="schema")]
    strict: bool | None = None


WrittenFormat = PlainTextFormat | SchemaTextFormat
