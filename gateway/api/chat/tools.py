"""The tools of a chat completion request, and which of them may or must be called."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from gateway.api.request_model import Strict
from gateway.conversation.ask import NO_PARAMETERS, NamedTool, Tool, ToolChoice
from shared.errors import InvalidRequest

TOOLS = 128

ToolName = Annotated[str, Field(pattern=r"^[a-zA-Z0-9_-]{1,64}$")]


class FunctionDefinition(Strict):
    """A function that a model may call."""

    name: ToolName
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class ToolField(Strict):
    """One of `tools`."""

    type: Literal["function"]
    function: FunctionDefinition


class FunctionName(Strict):
    name: ToolName


class ChosenTool(Strict):
    """A tool by its name alone."""

    type: Literal["function"]
    function: FunctionName


class AllowedTools(Strict):
    """Some of `tools`: others are not to be called now."""

    mode: Literal["auto", "required"]
    tools: Annotated[list[ChosenTool], Field(min_length=1, max_length=TOOLS)]


class SomeTools(Strict):
    """The choice among some of `tools`."""

    type: Literal["allowed_tools"]
    allowed_tools: AllowedTools


def _as_object(choice: object) -> object:
    return {"type": choice} if isinstance(choice, str) else choice


class ToolChoiceObject(Strict):
    """`tool_choice`: a word, which is the `type` alone, one tool, or some."""

    type: Literal["none", "auto", "required", "function", "allowed_tools"]
    function: FunctionName | None = None
    allowed_tools: AllowedTools | None = None

    @model_validator(mode="after")
    def _is_whole(self) -> ToolChoiceObject:
        if self.type in ("function", "allowed_tools") and getattr(self, self.type) is None:
            raise ValueError(f"a choice of type {self.type!r} must have a {self.type!r}")
        return self

    @property
    def named(self) -> list[str]:
        """The tools that it names."""
        if self.allowed_tools is not None:
            return [tool.function.name for tool in self.allowed_tools.tools]
        return [] if self.function is None else [self.function.name]


ToolWord = Literal["none", "auto", "required"]
ToolChoiceField = Annotated[
    ToolChoiceObject | None,
    BeforeValidator(_as_object, json_schema_input_type=ToolWord | ChosenTool | SomeTools | None),
]


def offered_tools(fields: Sequence[ToolField]) -> list[Tool]:
    """The tools as conversations have them. Raises InvalidRequest."""
    names = [field.function.name for field in fields]
    for place, field in enumerate(fields):
        if field.function.name in names[:place]:
            reason = f"tools[{place}].function.name: there is a tool {field.function.name!r} already"
            raise InvalidRequest(reason, f"tools[{place}].function.name")
    return [_tool(field.function, f"tools[{place}]") for place, field in enumerate(fields)]


def chosen_tools(tools: Sequence[Tool], choice: ToolChoiceObject | None) -> tuple[Sequence[Tool], ToolChoice]:
    """Those tools that may be called, and whether one has to be. Raises InvalidRequest."""
    if choice is None or choice.type in ("none", "auto"):
        return tools, "none" if choice is not None and choice.type == "none" else "auto"
    if not tools:
        raise InvalidRequest("tool_choice: there are no tools to choose from", "tool_choice")
    for name in choice.named:
        if name not in [tool.name for tool in tools]:
            raise InvalidRequest(f"tool_choice: there is no tool {name!r} among the tools", "tool_choice")
    if choice.type == "function":
        return tools, NamedTool(choice.named[0])
    if choice.allowed_tools is None:
        return tools, "required"
    return [tool for tool in tools if tool.name in choice.named], choice.allowed_tools.mode


def _tool(function: FunctionDefinition, place: str) -> Tool:
    """Arguments are an object, whether the schema says so or not."""
    schema = NO_PARAMETERS if function.parameters is None else {"type": "object", **function.parameters}
    if schema["type"] != "object":
        param = f"{place}.function.parameters"
        raise InvalidRequest(f"{param}: the schema must be of type 'object'", param)
    return Tool(function.name, function.description, schema, bool(function.strict), place)
