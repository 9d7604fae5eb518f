"""Messages of a chat completion request by their roles: what `chat/messages.py` takes, for the OpenAPI document."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from gateway.api.chat.messages import CALLS, NAME_CHARACTERS, PARTS, ToolCall
from gateway.api.request_model import Strict

Name = Annotated[str, Field(max_length=NAME_CHARACTERS)]


class TextPart(Strict):
    type: Literal["text"]
    text: str


class RefusalPart(Strict):
    """What an assistant has refused before."""

    type: Literal["refusal"]
    refusal: str


Text = str | Annotated[list[TextPart], Field(min_length=1, max_length=PARTS)]
Said = str | Annotated[list[TextPart | RefusalPart], Field(min_length=1, max_length=PARTS)]


class SystemMessage(Strict):
    """How the model is to behave; `developer` is the newer name of `system`."""

    role: Literal["system", "developer"]
    content: Text
    name: Name | None = None


class UserMessage(Strict):
    role: Literal["user"]
    content: Text
    name: Name | None = None


class AssistantMessage(Strict):
    """What the model has answered before: it has content, tool calls, a refusal or reasoning."""

    role: Literal["assistant"]
    content: Said | None = None
    tool_calls: Annotated[list[ToolCall], Field(max_length=CALLS)] | None = None
    reasoning_content: str | None = None
    refusal: str | None = None
    name: Name | None = None


class ToolMessage(Strict):
    """What a tool has given back; `tool_call_id` is that of the call."""

    role: Literal["tool"]
    content: Text
    tool_call_id: Annotated[str, Field(min_length=1, max_length=NAME_CHARACTERS)]
    name: Name | None = None


MessageByRole = Annotated[SystemMessage | UserMessage | AssistantMessage | ToolMessage, Field(discriminator="role")]
