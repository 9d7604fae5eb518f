"""What a conversation asks of a model, whichever of OpenAI's endpoints it came by."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

ChatMessage = Mapping[str, Any]
"""A message as OpenAI's chat completions and the models' chat templates have it.

`role`: system, user, assistant or tool; `content`: a string (None for an assistant that only calls tools); perhaps
`name`; an assistant's `tool_calls` (`{"id", "type": "function", "function": {"name", "arguments": a JSON string}}`) and
`reasoning_content`; a tool's `tool_call_id`.
"""


NO_PARAMETERS: Mapping[str, Any] = {"type": "object", "properties": {}, "additionalProperties": False}


@dataclass(frozen=True, slots=True)
class Tool:
    """A function that the model may call. `parameters` is a JSON schema, to which arguments keep if it is `strict`.

    `param` is the request's field that holds it, for errors: a choice among the tools may leave out some before it.
    """

    name: str
    description: str | None
    parameters: Mapping[str, Any]
    strict: bool = False
    param: str = "tools"


@dataclass(frozen=True, slots=True)
class NamedTool:
    """The choice of one tool, which has to be called."""

    name: str


ToolChoice = Literal["auto", "none", "required"] | NamedTool


@dataclass(frozen=True, slots=True)
class JsonObject:
    """The answer is a JSON object."""


@dataclass(frozen=True, slots=True)
class JsonSchema:
    """The answer is JSON that keeps to `schema`; `param` is the request's field that holds it, for errors."""

    schema: Mapping[str, Any]
    param: str


AnswerFormat = JsonObject | JsonSchema | None
"""None is plain text."""


@dataclass(frozen=True, slots=True)
class Ask:
    """A conversation that wants an answer."""

    messages: Sequence[ChatMessage]
    tools: Sequence[Tool] = ()
    tool_choice: ToolChoice = "auto"
    parallel_tool_calls: bool = True
    format: AnswerFormat = None
    template_kwargs: Mapping[str, Any] = field(default_factory=dict)
