"""What an answer must keep to, as a grammar: a format, calls of tools, thinking before it.

The text is llguidance's Lark; gateway/generation/grammars.py says how it is written.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from gateway.conversation.ask import NO_PARAMETERS, AnswerFormat, Ask, JsonObject, JsonSchema, NamedTool, Tool
from gateway.conversation.dialect import Dialect
from gateway.conversation.harmony import harmony_rules
from gateway.conversation.tool_formats.formats import HARMONY, ToolFormat
from gateway.generation.json_schema import enforceable
from gateway.generation.tokenizer import TextTokenizer
from shared.errors import InvalidRequest

_ANY_OBJECT: Mapping[str, Any] = {"type": "object"}
_FREE = r"(.|\n)*"
_TERMINALS = r"SPACE: /[ \n]{1,3}/"

Mark = Callable[[str], str]
"""A mark as it stands in a rule."""


def constraint(ask: Ask, dialect: Dialect, inside: bool, tokenizer: TextTokenizer) -> str | None:
    """The grammar of an answer, or None if it is free. Raises InvalidRequest for schemas that cannot be enforced.

    Calls that have to come, one or more, stand alone; if they may come, they and the format exclude each other, and
    without a format what stands before and between calls is free. Arguments keep to their schemas where a tool is
    strict or has to be called; if the schema of one that is not strict cannot be enforced, they are any JSON object.
    Thinking, which comes first, is always free.
    """

    def mark(text: str) -> str:
        id = tokenizer.token_id(text)
        return f"<[{id}]>" if id is not None and id in tokenizer.special_ids else json.dumps(text)

    if dialect.format is HARMONY:
        return _in_harmony(ask, mark)
    rules = _answer(ask, dialect, mark)
    if rules is None:
        return None
    return "\n".join((*_thinking(dialect, inside, mark), *rules, _TERMINALS))


def _in_harmony(ask: Ask, mark: Mark) -> str | None:
    tools, must = _callable(ask), ask.tool_choice != "auto"
    form = None if ask.format is None or (tools and must) else f"%json {_format_schema(ask.format)}"
    if form is None and not (tools and (must or any(tool.strict for tool in tools))):
        return None
    calls = [(tool.name, f"%json {_arguments(tool, must)}") for tool in tools]
    return "\n".join(harmony_rules(form, calls, form is None and not must, mark))


def _callable(ask: Ask) -> Sequence[Tool]:
    """The tools that may be called."""
    match ask.tool_choice:
        case "none":
            return ()
        case NamedTool(name):
            return [tool for tool in ask.tools if tool.name == name]
        case "auto" | "required":
            return ask.tools


def _thinking(dialect: Dialect, inside: bool, mark: Mark) -> list[str]:
    if dialect.thinking is None:
        return ["start: answer"]
    opener, closer = mark(dialect.thinking.opener), dialect.thinking.closer
    start = "start: thought answer" if inside else f"start: ({opener} thought)? answer"
    return [start, "thought: thinking SPACE?", _up_to("thinking", closer, _FREE, mark)]


def _up_to(rule: str, text: str, before: str, mark: Mark) -> str:
    """A rule for what comes up to a mark and with it."""
    written = mark(text)
    if written.startswith("<"):
        return f"{rule}: /{before}/ {written}"
    return f"{rule}[lazy]: /{before}{_in_regex(text)}/"


def _in_regex(text: str) -> str:
    return re.escape(text).replace("/", r"\/")


def _answer(ask: Ask, dialect: Dialect, mark: Mark) -> list[str] | None:
    tools, choice = _callable(ask), ask.tool_choice
    form = None if ask.format is None else f"%json {_format_schema(ask.format)}"
    if not tools:
        return None if form is None else [f"answer: {form}"]
    many = ask.parallel_tool_calls and not isinstance(choice, NamedTool)
    if choice != "auto":
        return ["answer: calls", *_calls(dialect.format, many, mark), *_each(ask, tools, dialect.format, mark)]
    if form is not None:
        rules = [f"answer: {form} | calls", *_calls(dialect.format, many, mark)]
    elif any(tool.strict for tool in tools):
        rules = _calls_in_text(dialect.format, many, mark)
    else:
        return None
    return [*rules, *_each(ask, tools, dialect.format, mark)]


def _format_schema(form: AnswerFormat) -> str:
    match form:
        case JsonSchema(schema, param):
            return enforceable(schema, param)
        case JsonObject() | None:
            return enforceable(_ANY_OBJECT, "response_format")


def _calls(form: ToolFormat, many: bool, mark: Mark) -> list[str]:
    """`calls`: one, or several if `many`; `call` is a call without marks."""
    opener = mark(form.opener) if form.opener else ""
    if form.closer:
        closed = f"closed: {opener} SPACE? call SPACE? {mark(form.closer)}"
        return [closed, "calls: closed (SPACE? closed)*" if many else "calls: closed"]
    if form.named:
        return [f"marked: {opener} call", "calls: marked+" if many else "calls: marked"]
    if form.listed:
        listed = f"{opener} {_list(many)}" if opener else _list(many)
        return [f"calls: {listed} | call" if not opener and not many else f"calls: {listed}"]
    return [f"calls: call ({json.dumps(form.separator)} call)*" if many else "calls: call"]


def _calls_in_text(form: ToolFormat, many: bool, mark: Mark) -> list[str]:
    """Text that is free, but for the calls in it."""
    rules = _calls(form, many, mark)
    if form.bare:
        first = r"[^{\[\s]" if form.listed else r"[^{\s]"  # a line that begins otherwise would be read as a call
        text = rf"[ \t]*({first}[^\n]*)?(\n[ \t]*({first}[^\n]*)?)*"
        opened = f"{mark(form.opener)}? " if form.opener else ""
        return [*rules, f"answer: {opened}calls | TEXT", f"TEXT: /{text}/"]
    after = f"SPACE? call SPACE? {mark(form.closer)}" if form.closer else _after_opener(form, many)
    turns = "*" if many else "?"
    return [_up_to("text", form.opener, _FREE, mark), f"answer: (text {after}){turns} TEXT", f"TEXT: /{_FREE}/"]


def _after_opener(form: ToolFormat, many: bool) -> str:
    if form.named:
        return "call"
    return _list(many)


def _list(many: bool) -> str:
    return '" "? "[" call (", " call)* "]"' if many else '" "? "[" call "]"'


def _each(ask: Ask, tools: Sequence[Tool], form: ToolFormat, mark: Mark) -> list[str]:
    """`call`: one of the tools, with its arguments."""
    rules = ["call: " + " | ".join(f"call_{place}" for place in range(len(tools)))]
    for place, tool in enumerate(tools):
        arguments = f"%json {_arguments(tool, ask.tool_choice != 'auto')}"
        if form.named:
            rules.append(f"call_{place}: {json.dumps(tool.name)} {mark('[ARGS]')} {arguments}")
        else:
            head = ("{", '"name"', ": ", json.dumps(tool.name), ", ", f'"{form.arguments}"', ": ")
            rules.append(f'call_{place}: {" ".join(map(json.dumps, head))} {arguments} "}}"')
    return rules


def _arguments(tool: Tool, must: bool) -> str:
    """The schema of a tool's arguments as it is enforced, if it is strict or `must` be called."""
    schema = {**tool.parameters, "type": "object"} if tool.parameters else NO_PARAMETERS
    if tool.strict:
        return enforceable(schema, tool.param)
    try:
        return enforceable(schema if must else _ANY_OBJECT, tool.param)
    except InvalidRequest:
        return enforceable(_ANY_OBJECT, tool.param)
