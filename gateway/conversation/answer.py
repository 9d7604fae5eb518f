"""An answer's parts, from the text that a model writes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol

from gateway.conversation.parts import Content, Part, Reasoning
from gateway.conversation.thinking import ThinkingReader
from gateway.conversation.tool_formats.reader import ToolReader
from gateway.generation.completion import Finish

AnswerFinish = Literal["stop", "length", "tool_calls"]


class Reader(Protocol):
    """Reads one choice's text as it comes."""

    def feed(self, text: str) -> list[Part]:
        """The parts that are certain now."""
        ...

    @property
    def over(self) -> bool:
        """The answer is whole, whatever the model would say yet: its generation may end, as with `stop`."""
        ...

    @property
    def broken(self) -> bool:
        """The answer has ended within the arguments of its last call."""
        ...

    def end(self, finish: Finish) -> tuple[list[Part], AnswerFinish]:
        """What was held back, and how the answer ends: with `tool_calls` where it calls any, and all are whole."""
        ...


@dataclass(slots=True)
class AnswerReader:
    """Reads what a model thinks, says and calls. Without tools, calls are text like any other."""

    thinking: ThinkingReader | None = None
    tools: ToolReader | None = None

    @property
    def over(self) -> bool:
        return self.tools is not None and self.tools.over

    @property
    def broken(self) -> bool:
        return self.tools is not None and self.tools.broken

    def feed(self, text: str) -> list[Part]:
        if self.thinking is None:
            return self._said(text)
        return self._parted(*self.thinking.feed(text))

    def end(self, finish: Finish) -> tuple[list[Part], AnswerFinish]:
        parts = self._parted(*self.thinking.end()) if self.thinking else []
        if self.tools is None:
            return parts, finish
        parts += self.tools.end()
        return parts, "tool_calls" if self.tools.calls and finish == "stop" and not self.broken else finish

    def _parted(self, thought: str, answer: str) -> list[Part]:
        return [*([Reasoning(thought)] if thought else []), *self._said(answer)]

    def _said(self, text: str) -> list[Part]:
        if self.tools is not None:
            return self.tools.feed(text)
        return [Content(text)] if text else []
