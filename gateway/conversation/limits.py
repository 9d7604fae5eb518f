"""What a conversation may ask for, beyond its shape: names that fit together, and sizes."""

from __future__ import annotations

import inspect
import json
from collections.abc import Mapping
from typing import Any

from transformers import PreTrainedTokenizerBase

from gateway.conversation.ask import Ask, NamedTool
from gateway.conversation.nesting import nested_deeper_than
from shared.errors import InvalidRequest

MOST_TOOLS = 128  # as OpenAI has it
MOST_TOOL_CHARACTERS = 1_000_000  # of all tools, as JSON
MOST_VARIABLES, MOST_VARIABLE_CHARACTERS = 64, 65_536
MOST_LEVELS = 64  # of objects and lists in one another

_VARIABLES = "chat_template_kwargs"
_RESERVED = frozenset(
    {"messages", *inspect.signature(PreTrainedTokenizerBase.apply_chat_template).parameters}
    | {*PreTrainedTokenizerBase.SPECIAL_TOKENS_ATTRIBUTES, "raise_exception", "strftime_now", "namespace"}
) - {"documents", "kwargs"}
"""What templates are given by us, or hear of the tokenizer."""


def check(ask: Ask) -> None:
    """Raises InvalidRequest. Takes some milliseconds where there is much to check."""
    _check_tools(ask)
    _check_choice(ask)
    _check_variables(ask.template_kwargs)


def _check_tools(ask: Ask) -> None:
    if len(ask.tools) > MOST_TOOLS:
        raise InvalidRequest(f"tools: there are {len(ask.tools)}, and {MOST_TOOLS} at most are taken", "tools")
    characters = 0
    for tool in ask.tools:
        if nested_deeper_than(tool.parameters, MOST_LEVELS):
            reason = f"{tool.param}: parameters are nested more than {MOST_LEVELS} levels deep"
            raise InvalidRequest(reason, tool.param)
        characters += len(tool.description or "") + len(json.dumps(tool.parameters))
    if characters > MOST_TOOL_CHARACTERS:
        raise InvalidRequest(
            f"tools: descriptions and parameters come to {characters} characters, "
            f"and {MOST_TOOL_CHARACTERS} at most are taken: send fewer tools",
            "tools",
        )


def _check_choice(ask: Ask) -> None:
    names = [tool.name for tool in ask.tools]
    match ask.tool_choice:
        case NamedTool(name) if name not in names:
            raise InvalidRequest(f"tool_choice names {name[:64]!r}, which is none of the tools", "tool_choice")
        case "required" if not names:
            raise InvalidRequest("tool_choice is 'required', but there are no tools: send some", "tool_choice")
        case _:
            return


def _check_variables(variables: Mapping[str, Any]) -> None:
    if reserved := next((name for name in variables if name in _RESERVED), None):
        reason = f"{_VARIABLES} may not set {reserved!r}, which the model's chat template is given by the server"
        raise InvalidRequest(reason, _VARIABLES)
    if len(variables) > MOST_VARIABLES:
        raise InvalidRequest(f"{_VARIABLES} has more than {MOST_VARIABLES} names", _VARIABLES)
    if nested_deeper_than(variables, MOST_LEVELS):
        raise InvalidRequest(f"{_VARIABLES} is nested more than {MOST_LEVELS} levels deep", _VARIABLES)
    if (characters := len(json.dumps(variables))) > MOST_VARIABLE_CHARACTERS:
        reason = f"{_VARIABLES} has {characters} characters, and {MOST_VARIABLE_CHARACTERS} at most are taken"
        raise InvalidRequest(reason, _VARIABLES)
