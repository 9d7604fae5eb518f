"""The tools of a response, and which of them the model may or must call."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import Field

from gateway.api.body import check
from gateway.api.chat.tools import TOOLS, ToolName
from gateway.api.request_model import Strict
from gateway.conversation.ask import NO_PARAMETERS, NamedTool, Tool, ToolChoice
from shared.errors import InvalidRequest


class _Function(Strict):
    """A function in the flat shape that responses have; chat completions nest it."""

    name: ToolName
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class _Named(Strict):
    type: Literal["function"]
    name: str


class _Allowed(Strict):
    mode: Literal["auto", "required"]
    tools: Annotated[list[dict[str, Any]], Field(min_length=1, max_length=TOOLS)]


@dataclass(frozen=True, slots=True)
class Toolbox:
    """The function tools of a request, each by its place among all tools, and the choice among them.

    A request may leave it open whether the arguments of a function keep to its schema: they do where that can be done.
    """

    functions: Mapping[int, _Function]
    allowed: frozenset[str]
    choice: ToolChoice
    sent_choice: str | dict[str, Any]

    @property
    def leaves_open(self) -> bool:
        """Whether `tools` depends on its argument."""
        return any(function.strict is None for function in self.functions.values())

    def tools(self, strict: bool) -> list[Tool]:
        """Those that the model may call; `strict` are those of which the request does not say it."""
        return [
            Tool(
                each.name,
                each.description,
                each.parameters or NO_PARAMETERS,
                _or(each.strict, strict),
                f"tools[{place}]",
            )
            for place, each in self.functions.items()
            if each.name in self.allowed
        ]

    def shapes(self, strict: bool) -> list[dict[str, Any]]:
        """What the answer says of the tools: those that it ignores are not among them."""
        return [
            {"type": "function", **each.model_dump(), "strict": _or(each.strict, strict)}
            for each in self.functions.values()
        ]


def toolbox(tools: Sequence[Mapping[str, Any]], choice: str | dict[str, Any]) -> Toolbox:
    """Tools of other types are ignored, as clients expect that offer several. Raises InvalidRequest."""
    functions = {
        place: check(_Function, tool, f"tools[{place}]")
        for place, tool in enumerate(tools)
        if _kind(tool, f"tools[{place}]") == "function"
    }
    names = [each.name for each in functions.values()]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise InvalidRequest(f"tools: two functions are named {twice!r}: rename one", "tools")
    allowed, chosen = _choice(choice, frozenset(names))
    if chosen == "required" and not allowed:
        reason = "tool_choice: a call is required, but tools holds no function: send one, or choose 'auto'"
        raise InvalidRequest(reason, "tool_choice")
    return Toolbox(functions, allowed, chosen, choice)


def _choice(choice: str | dict[str, Any], names: frozenset[str]) -> tuple[frozenset[str], ToolChoice]:
    if isinstance(choice, str):
        if choice in ("auto", "none", "required"):
            return names, choice  # pyright: ignore[reportReturnType]  narrowed by the line above
        raise InvalidRequest("tool_choice: must be 'auto', 'none', 'required' or an object", "tool_choice")
    if choice.get("type") != "allowed_tools":
        return names, NamedTool(_named(choice, names, "tool_choice"))
    allowed = check(_Allowed, choice, "tool_choice")
    chosen = [_named(tool, names, f"tool_choice.tools[{place}]") for place, tool in enumerate(allowed.tools)]
    return frozenset(chosen), allowed.mode


def _named(choice: Mapping[str, Any], names: frozenset[str], path: str) -> str:
    if choice.get("type") != "function":
        reason = f"{path}.type: only tools of type 'function' can be called here, not {str(choice.get('type'))[:60]!r}"
        raise InvalidRequest(reason, f"{path}.type", "unsupported_value")
    name = check(_Named, choice, path).name
    if name not in names:
        raise InvalidRequest(f"{path}.name: tools holds no function of the name {name[:64]!r}", f"{path}.name")
    return name


def _kind(tool: Mapping[str, Any], path: str) -> str:
    kind = tool.get("type")
    if not isinstance(kind, str):
        raise InvalidRequest(f"{path}.type: must say what kind of tool it is, such as 'function'", f"{path}.type")
    return kind


def _or(value: bool | None, default: bool) -> bool:
    return default if value is None else value
