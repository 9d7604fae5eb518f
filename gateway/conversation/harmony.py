"""Harmony, gpt-oss's way to write: an answer is messages, each in a channel, some of them to a tool.

`<|channel|>analysis<|message|>…<|end|><|start|>assistant<|channel|>final<|message|>…<|return|>`, and a call as
`<|channel|>commentary to=functions.name <|constrain|>json<|message|>{…}<|call|>`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Container, Sequence

from gateway.conversation.answer import AnswerFinish
from gateway.conversation.parts import Content, Part, Reasoning, ToolCallArguments, ToolCallBegins
from gateway.conversation.tool_formats.calls import has_ended
from gateway.generation.completion import Finish
from gateway.generation.stops import overlap

_BODY = "<|message|>"
_ENDS = ("<|end|>", "<|call|>", "<|return|>", "<|start|>", "<|channel|>")
_END = re.compile("|".join(map(re.escape, _ENDS)))
_TO_TOOL = re.compile(r"\bto=functions\.([\w-]+)")


class HarmonyReader:
    """Reads the messages of an answer: analysis is thinking, what is for one of `tools` a call, all else content."""

    def __init__(self, tools: Container[str], most: int | None, new_id: Callable[[], str]) -> None:
        self._tools = tools
        self._most = most
        self._new_id = new_id
        self._held = ""
        self._part: Callable[[str], Part] | None = None  # what the message's text is; None between messages
        self._calls = 0
        self._arguments: list[str] | None = None  # those of the call that is being read
        self.broken = False

    @property
    def over(self) -> bool:
        return self._calls == self._most and self._part is None

    def feed(self, text: str) -> list[Part]:
        self._held += text
        parts: list[Part] = []
        while not self.over and (self._read_body(parts) if self._part else self._read_head(parts)):
            pass
        return parts

    def end(self, finish: Finish) -> tuple[list[Part], AnswerFinish]:
        parts: list[Part] = []
        if self._part:
            self._give(self._held, parts)
            self._see_whole(finish)
            self._close(parts)
        elif self._held.strip() and "<|" not in self._held:  # it has not kept to the form at all
            parts.append(Content(self._held))
        self._held = ""
        return parts, "tool_calls" if self._calls and finish == "stop" and not self.broken else finish

    def _read_head(self, parts: list[Part]) -> bool:
        head, found, rest = self._held.partition(_BODY)
        if not found:
            return False
        self._held = rest
        to_tool = _TO_TOOL.search(head)
        if to_tool and to_tool[1] in self._tools:
            index, self._arguments = self._calls, []
            self._part = lambda text: ToolCallArguments(index, text)
            parts.append(ToolCallBegins(index, self._new_id(), to_tool[1]))
            self._calls += 1
        else:
            self._part = Reasoning if "<|channel|>analysis" in head and not to_tool else Content
        return True

    def _read_body(self, parts: list[Part]) -> bool:
        found = _END.search(self._held)
        if not found:
            safe = len(self._held) - max(overlap(self._held, mark) for mark in _ENDS)
            self._give(self._held[:safe], parts)
            self._held = self._held[safe:]
            return False
        self._give(self._held[: found.start()], parts)
        self._close(parts)
        self._held = self._held[found.start() :].removeprefix("<|end|>")
        return True

    def _give(self, text: str, parts: list[Part]) -> None:
        if text and self._part:
            parts.append(self._part(text))
            if self._arguments is not None:
                self._arguments.append(text)

    def _see_whole(self, finish: Finish) -> None:
        """A call's mark of its end is no text: none at all are no arguments if it has come, and cut ones if not."""
        if self._arguments is not None:
            written = "".join(self._arguments)
            self.broken = not has_ended(written) if written else finish == "length"

    def _close(self, parts: list[Part]) -> None:
        if self._arguments == [] and not self.broken:
            self._give("{}", parts)
        self._arguments = self._part = None


def harmony_rules(
    form: str | None, calls: Sequence[tuple[str, str]], text: bool, mark: Callable[[str], str]
) -> list[str]:
    """Rules of a grammar: an answer that thinks, and then is of a format, or a call of a tool with its arguments.

    `calls` are names and rules of arguments; with `text` the answer may be free text, too.
    """
    channel, message, end, start = (mark(f"<|{name}|>") for name in ("channel", "message", "end", "start"))
    last = [f"final {body}" for body in (form, "TEXT" if text else None) if body]
    rules = [
        f"start: thought? {channel} last",
        f'thought: {channel} "analysis" {message} TEXT {end} {start} "assistant"',
        f'final: "final" {message}',
        r"TEXT: /(.|\n)*/",
    ]
    for place, (name, arguments) in enumerate(calls):
        head = f'"commentary to=functions.{name} " {mark("<|constrain|>")} "json" {message}'
        rules.append(f"call_{place}: {head} {arguments}")
        last.append(f"call_{place}")
    return [*rules, f"last: {' | '.join(last)}"]
