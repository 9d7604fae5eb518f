"""Conversations as chat templates take them."""

from __future__ import annotations

import hashlib
import json
import re
import string
from collections.abc import Mapping, Sequence
from typing import Any

from gateway.conversation.ask import ChatMessage, Tool
from gateway.conversation.dialect import Dialect, Message
from gateway.conversation.nesting import nested_deeper_than

MOST_NESTED = 64  # levels of arguments that a template sees parsed

_SHORT_ID = re.compile(r"[a-zA-Z0-9]{9}")
_DIGITS = string.digits + string.ascii_letters
_TAUGHT = """# Tools

You may call one or more functions to assist with the user query.

You are provided with function signatures within <tools></tools> XML tags:
<tools>
{tools}
</tools>

For each function call, return a json object with function name and arguments within <tool_call></tool_call> XML tags:
<tool_call>
{{"name": <function-name>, "arguments": <args-json-object>}}
</tool_call>"""  # the words that Hermes and Qwen were trained on, which others follow best, too


def tool_shape(tool: Tool) -> dict[str, Any]:
    """A tool as templates, and OpenAI, have it."""
    function = {"name": tool.name, "description": tool.description or "", "parameters": dict(tool.parameters)}
    return {"type": "function", "function": function}


def as_template_takes(messages: Sequence[ChatMessage], tools: Sequence[Tool], dialect: Dialect) -> list[Message]:
    """The messages, with whatever the template does not know said in words: tools, calls and their results."""
    taken = _with_known_names(messages, dialect)
    if not dialect.takes_calls:
        taken = _in_words(taken)
    elif not dialect.takes_many:
        taken = _one_by_one(taken)
    return _with_tools_taught(taken, tools, dialect) if tools and not dialect.shows_tools else taken


def _with_known_names(messages: Sequence[ChatMessage], dialect: Dialect) -> list[Message]:
    """Results say of which tool they are, as templates want: of the last one called by their id.

    Servers that number the calls of each answer give an id again in a later turn.
    """
    taken: list[Message] = []
    names: dict[str, str] = {}  # of tools, by the ids of their calls
    for message in messages:
        taken.append(_message(message, dialect, names))
        names |= {call["id"]: call["function"]["name"] for call in message.get("tool_calls") or ()}
    return taken


def _message(message: ChatMessage, dialect: Dialect, names: Mapping[str, str]) -> Message:
    """Text is always a string, and arguments are what they mean."""
    role = "system" if message["role"] == "developer" else message["role"]
    taken: Message = {**message, "role": role, "content": message.get("content") or ""}
    calls = taken.pop("tool_calls", None)
    if calls:
        taken["tool_calls"] = [_call(call, dialect) for call in calls]
    if role == "tool" and (id := taken.get("tool_call_id")) is not None:
        taken["tool_call_id"] = _short(id) if dialect.short_ids else id
        taken["name"] = taken.get("name") or names.get(id, "")
    return taken


def _call(call: Mapping[str, Any], dialect: Dialect) -> Message:
    name, arguments = call["function"]["name"], call["function"]["arguments"]
    meant = _parsed(arguments) if dialect.object_arguments else arguments or "{}"
    if isinstance(meant, str) and not dialect.text_arguments:
        meant = {"arguments": meant}  # what a model broke off, say: the conversation goes on all the same
    id = _short(call["id"]) if dialect.short_ids else call["id"]
    return {"id": id, "type": "function", "function": {"name": name, "arguments": meant}}


def _parsed(arguments: str) -> object:
    """The object that arguments are; a string that is none as it stands, since models do write such."""
    try:
        value = json.loads(arguments or "{}", parse_constant=_refused)
        json.dumps(value, ensure_ascii=False).encode()  # escapes may stand for halves of characters
    except (ValueError, RecursionError):
        return arguments
    return value if isinstance(value, dict) and not nested_deeper_than(value, MOST_NESTED) else arguments


def _refused(constant: str) -> object:
    raise ValueError(f"{constant} is no JSON")


def _short(id: str) -> str:
    """An id of nine letters and digits: the same one for the same id."""
    if _SHORT_ID.fullmatch(id):
        return id
    number = int.from_bytes(hashlib.sha256(id.encode()).digest())
    return "".join(_DIGITS[number // len(_DIGITS) ** place % len(_DIGITS)] for place in range(9))


def _one_by_one(messages: Sequence[Message]) -> list[Message]:
    """Each call in a message of its own, its result right after it, for templates that know no other way."""
    taken: list[Message] = []
    place = 0
    while place < len(messages):
        message, place = messages[place], place + 1
        if len(message.get("tool_calls", ())) < 2:
            taken.append(message)
            continue
        results: list[Message] = []
        while place < len(messages) and messages[place]["role"] == "tool":
            results.append(messages[place])
            place += 1
        taken += _parted(message, results)
    return taken


def _parted(message: Message, results: list[Message]) -> list[Message]:
    """A message for each of its calls, with the result that answers it; results that answer none come last."""
    taken: list[Message] = []
    for number, call in enumerate(message["tool_calls"]):
        taken.append({**message, "content": "" if number else message["content"], "tool_calls": [call]})
        answer = next((place for place, each in enumerate(results) if each.get("tool_call_id") == call["id"]), None)
        if answer is not None:
            taken.append(results.pop(answer))
    return taken + results


def _in_words(messages: Sequence[Message]) -> list[Message]:
    """Calls as their model would write them, results as what the user says.

    A result is in one message with results just before it and with what the user says then: many templates want user
    and assistant to take turns.
    """
    taken: list[Message] = []
    after_result = False
    for message in messages:
        said = _result_in_words(message) if message["role"] == "tool" else _calls_in_words(message)
        if after_result and said["role"] == "user":
            taken[-1] = {**said, "content": f"{taken[-1]['content']}\n{said['content']}"}
        else:
            taken.append(said)
        after_result = message["role"] == "tool"
    return taken


def _result_in_words(message: Message) -> Message:
    return {"role": "user", "content": f"<tool_response>\n{message['content']}\n</tool_response>"}


def _calls_in_words(message: Message) -> Message:
    calls = message.get("tool_calls", ())
    written = [f"<tool_call>\n{json.dumps(call['function'], ensure_ascii=False)}\n</tool_call>" for call in calls]
    kept = {name: value for name, value in message.items() if name != "tool_calls"}
    return {**kept, "content": "\n".join(part for part in (message["content"], *written) if part)}


def _with_tools_taught(messages: Sequence[Message], tools: Sequence[Tool], dialect: Dialect) -> list[Message]:
    """The tools in the system message, or, where the template has none, before what the user says first."""
    shapes = "\n".join(json.dumps(tool_shape(tool), ensure_ascii=False) for tool in tools)
    taught = _TAUGHT.format(tools=shapes)
    if messages[0]["role"] == "system":
        return [{**messages[0], "content": f"{messages[0]['content']}\n\n{taught}"}, *messages[1:]]
    if dialect.takes_system or messages[0]["role"] != "user":
        return [{"role": "system", "content": taught}, *messages]
    return [{**messages[0], "content": f"{taught}\n\n{messages[0]['content']}"}, *messages[1:]]
