"""The messages of a conversation, as clients send them."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from gateway.api.request_model import Strict
from gateway.conversation.ask import ChatMessage

NAME_CHARACTERS = 256
MESSAGES, PARTS, CALLS = 10_000, 1_000, 128


def _known_kind(kind: str) -> str:
    if kind not in ("text", "refusal"):
        raise ValueError(f"{kind[:40]!r} parts are not supported: models are given text alone, in parts of type 'text'")
    return kind


def _in_parts(content: object) -> object:
    if isinstance(content, str):
        return [{"type": "text", "text": content}]
    if content is not None and not isinstance(content, list):
        raise ValueError("must be a string, or a list of parts")
    if content == []:
        raise ValueError("must hold at least one part")
    return content


class ContentPart(Strict):
    """A part of a message: text, or a refusal that an assistant has given before."""

    type: Annotated[str, AfterValidator(_known_kind)]
    text: str | None = None
    refusal: str | None = None

    @model_validator(mode="after")
    def _says_something(self) -> ContentPart:
        if self.said is None:
            raise ValueError(f"a part of type {self.type!r} must have a {self.type!r} that is a string")
        return self

    @property
    def said(self) -> str | None:
        return self.text if self.type == "text" else self.refusal


Parts = Annotated[list[ContentPart], Field(max_length=PARTS, fail_fast=True)]


class CalledFunction(Strict):
    """`arguments` are as a model has written them: JSON, or what it took for that."""

    name: Annotated[str, Field(min_length=1, max_length=NAME_CHARACTERS)]
    arguments: str


class ToolCall(Strict):
    """A call of a tool that an assistant has made before."""

    id: Annotated[str, Field(min_length=1, max_length=NAME_CHARACTERS)]
    type: Literal["function"] = "function"
    function: CalledFunction


class Message(Strict):
    """One message. `content` is text, in one part or several."""

    role: Literal["system", "developer", "user", "assistant", "tool", "function"]
    content: Annotated[Parts | None, BeforeValidator(_in_parts)] = None
    name: Annotated[str, Field(max_length=NAME_CHARACTERS)] | None = None
    tool_calls: Annotated[list[ToolCall], Field(max_length=CALLS)] | None = None
    tool_call_id: Annotated[str, Field(min_length=1, max_length=NAME_CHARACTERS)] | None = None
    reasoning_content: str | None = None
    refusal: str | None = None
    function_call: dict[str, Any] | None = None
    audio: dict[str, Any] | None = None

    @model_validator(mode="after")
    def _is_supported(self) -> Message:
        if self.role == "function":
            raise ValueError("role 'function' is not supported: send results with role 'tool' and a tool_call_id")
        if self.function_call:
            raise ValueError("function_call is not supported: send tool_calls instead")
        if self.audio:
            raise ValueError("audio is not supported")
        return self

    @model_validator(mode="after")
    def _fits_its_role(self) -> Message:
        if self.role == "tool" and self.tool_call_id is None:
            raise ValueError("a message of role 'tool' must have the tool_call_id of the call that it answers")
        if self.role != "assistant":
            if self.tool_calls:
                raise ValueError(f"tool_calls belong into messages of role 'assistant', not {self.role!r}")
            if any(part.type == "refusal" for part in self.content or ()):
                raise ValueError(f"refusals belong into messages of role 'assistant', not {self.role!r}")
        said = self.tool_calls or self.refusal or self.reasoning_content
        if self.content is None and not (self.role == "assistant" and said):
            raise ValueError("content must be a string, or a list of parts")
        return self

    def for_template(self) -> ChatMessage:
        """As chat templates know it: to them, `developer` is what `system` was called before."""
        optional = {
            "name": self.name,
            "tool_call_id": self.tool_call_id if self.role == "tool" else None,
            "reasoning_content": self.reasoning_content if self.role == "assistant" else None,
            "tool_calls": [call.model_dump() for call in self.tool_calls] if self.tool_calls else None,
        }
        role = "system" if self.role == "developer" else self.role
        return {"role": role, "content": self._text(), **{k: v for k, v in optional.items() if v is not None}}

    def _text(self) -> str | None:
        """Parts are joined by line breaks; None for a message that only calls tools."""
        if self.content is None:
            return self.refusal or (None if self.tool_calls else "")
        return "\n".join(part.said or "" for part in self.content)
