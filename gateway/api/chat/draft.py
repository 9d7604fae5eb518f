"""An assistant's message while it is made: the deltas of a stream, and what they come to."""

from __future__ import annotations

from dataclasses import dataclass, field

from gateway.api.reading import Update
from gateway.api.shapes import Shape
from gateway.conversation.parts import Content, Part, Reasoning, ToolCallArguments, ToolCallBegins
from gateway.conversation.prepared import AnswerFinish
from gateway.generation.tokens import Token


def delta_of(part: Part) -> Shape:
    """What a part adds to a message. A call's `index` comes always, its id, type and name once."""
    match part:
        case Content(text):
            return {"content": text}
        case Reasoning(text):
            return {"reasoning_content": text}
        case ToolCallBegins(index, id, name):
            function = {"name": name, "arguments": ""}
            return {"tool_calls": [{"index": index, "id": id, "type": "function", "function": function}]}
        case ToolCallArguments(index, text):
            return {"tool_calls": [{"index": index, "function": {"arguments": text}}]}


@dataclass(slots=True)
class Draft:
    """One choice's message, as far as it has come; `tokens` are all that were made for it."""

    tokens: list[Token] = field(default_factory=list)
    finish: AnswerFinish | None = None
    _content: list[str] = field(default_factory=list)
    _reasoning: list[str] = field(default_factory=list)
    _calls: dict[int, tuple[ToolCallBegins, list[str]]] = field(default_factory=dict)  # by index; arguments in pieces

    def add(self, update: Update) -> None:
        self.tokens += update.tokens
        self.finish = update.finish or self.finish
        for part in update.parts:
            self._add_part(part)

    def message(self) -> Shape:
        """The whole message. One that calls tools and says nothing has no content."""
        text = "".join(self._content)
        shape: Shape = {
            "role": "assistant",
            "content": None if self._calls and not text else text,
            "refusal": None,
            "annotations": [],
        }
        if self._reasoning:
            shape["reasoning_content"] = "".join(self._reasoning)
        if self._calls:
            shape["tool_calls"] = [_call(begun, "".join(pieces)) for begun, pieces in self._calls.values()]
        return shape

    def _add_part(self, part: Part) -> None:
        match part:
            case Content(text):
                self._content.append(text)
            case Reasoning(text):
                self._reasoning.append(text)
            case ToolCallBegins(index):
                self._calls[index] = part, []
            case ToolCallArguments(index, text):
                self._calls[index][1].append(text)


def _call(begun: ToolCallBegins, arguments: str) -> Shape:
    return {"id": begun.id, "type": "function", "function": {"name": begun.name, "arguments": arguments}}
