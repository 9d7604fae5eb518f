"""What a model's chat template can do, found by asking it: small conversations are rendered and looked through.

Templates are programs; what they read of a conversation cannot be told from their text. (llama.cpp's minja asks so,
too.)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from gateway.conversation.thinking import KNOWN_MARKS, ThinkMarks
from gateway.conversation.tool_formats.formats import HERMES, ToolFormat, format_of, is_read
from gateway.generation.tokenizer import TextTokenizer
from shared.errors import InvalidRequest

Message = dict[str, Any]

_TOOL, _VALUE, _SECOND, _RESULT, _SYSTEM = "probe_tool", "probe_value", "probe_second", "probe_result", "probe_system"
_LONG_ID, _SHORT_ID = "call_0123456789abcdef01234567", "abcdef123"
_USER: Message = {"role": "user", "content": "probe_question"}
_TOOLS = [
    {
        "type": "function",
        "function": {
            "name": _TOOL,
            "description": "probe_description",
            "parameters": {"type": "object", "properties": {"x": {"type": "string"}}, "required": ["x"]},
        },
    }
]


@dataclass(frozen=True, slots=True)
class Dialect:
    """What a chat template takes, and the form in which its model calls tools.

    A template whose calls are in a form that is not read here is used as if it knew nothing of tools.

    It `shows_tools`, `takes_calls` of tools and their results, and several in one message if it `takes_many`; with
    `object_arguments` it wants arguments parsed, with `text_arguments` it takes those that are no object as they are
    written. With `short_ids` it wants calls' ids of nine letters and digits. It `takes_system` messages. `thinking` is
    None for models that do not think before they answer.
    """

    shows_tools: bool
    takes_calls: bool
    takes_many: bool
    object_arguments: bool
    text_arguments: bool
    short_ids: bool
    takes_system: bool
    format: ToolFormat
    thinking: ThinkMarks | None


@lru_cache(maxsize=16)  # of a tokenizer, which is never changed, as `re` keeps what it compiled: some ms of rendering
def dialect_of(tokenizer: TextTokenizer) -> Dialect:
    """The dialect of a model that has a chat template."""
    template = tokenizer.chat_template(with_tools=True)
    reads = is_read(template)
    shows_tools = reads and _finds(tokenizer, [_USER], _TOOL, tools=_TOOLS)
    taken = _taken_call(tokenizer) if reads else None
    takes_calls = taken is not None
    object_arguments, short_ids = taken or (True, False)
    return Dialect(
        shows_tools=shows_tools,
        takes_calls=takes_calls,
        takes_many=takes_calls and _finds(tokenizer, _called(object_arguments, short_ids, many=True), _SECOND),
        object_arguments=object_arguments,
        text_arguments=_finds(tokenizer, _called(False, short_ids), _TOOL, _VALUE, _RESULT),
        short_ids=short_ids,
        takes_system=_finds(tokenizer, [{"role": "system", "content": _SYSTEM}, _USER], _SYSTEM),
        format=format_of(template) if shows_tools else HERMES,
        thinking=next((marks for marks in KNOWN_MARKS if _knows(tokenizer, marks)), None),
    )


def _knows(tokenizer: TextTokenizer, marks: ThinkMarks) -> bool:
    """Some instruct models have the tokens too: for these, that the answer does not begin with the opener decides."""
    template = tokenizer.chat_template(with_tools=True)
    has_tokens = None not in (tokenizer.token_id(marks.opener), tokenizer.token_id(marks.closer))
    return marks.opener in template or marks.closer in template or has_tokens


def _taken_call(tokenizer: TextTokenizer) -> tuple[bool, bool] | None:
    """Whether arguments are wanted as objects, and ids short, by a template that takes calls and results at all."""
    for short_ids in (False, True):
        for as_objects in (True, False):
            messages = _called(as_objects, short_ids)
            if _finds(tokenizer, messages, _TOOL, _VALUE, _RESULT):
                return as_objects, short_ids
    return None


def _called(as_objects: bool, short_ids: bool, many: bool = False) -> list[Message]:
    """A conversation in which a tool was called, or two at once."""
    ids = [_SHORT_ID, _SHORT_ID[::-1]] if short_ids else [_LONG_ID, _LONG_ID[::-1]]
    values = [_VALUE, _SECOND] if many else [_VALUE]
    calls = [
        {
            "id": id,
            "type": "function",
            "function": {"name": _TOOL, "arguments": {"x": value} if as_objects else f'{{"x": "{value}"}}'},
        }
        for id, value in zip(ids, values, strict=False)
    ]
    results = [{"role": "tool", "tool_call_id": call["id"], "name": _TOOL, "content": _RESULT} for call in calls]
    return [_USER, {"role": "assistant", "content": "", "tool_calls": calls}, *results]


def _finds(
    tokenizer: TextTokenizer,
    messages: Sequence[Message],
    *wanted: str,
    tools: Sequence[Mapping[str, Any]] | None = None,
) -> bool:
    """Does the template take these messages, and show all that is wanted?"""
    try:
        text = tokenizer.render_chat(messages, tools)
    except InvalidRequest:
        return False
    return all(each in text for each in wanted)
