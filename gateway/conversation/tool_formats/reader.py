"""Tool calls in an answer's text, as it comes."""

from __future__ import annotations

import re
import secrets
import string
from collections.abc import Callable, Container

from gateway.conversation.holding import without_end_space
from gateway.conversation.parts import Content, Part, ToolCallArguments, ToolCallBegins
from gateway.conversation.tool_formats.block import CallBlock
from gateway.conversation.tool_formats.calls import Begins, CallEvent
from gateway.conversation.tool_formats.formats import ToolFormat
from gateway.generation.stops import overlap

_INDENTED = 100  # characters: how much space may lie before a call at the beginning of its line
_ALPHANUMERIC = string.ascii_letters + string.digits


def long_id() -> str:
    """A call's id as OpenAI's look."""
    return f"call_{secrets.token_hex(12)}"


def short_id() -> str:
    """A call's id as Mistral's templates want them: nine letters and digits."""
    return "".join(secrets.choice(_ALPHANUMERIC) for _ in range(9))


class ToolReader:
    """Reads text and calls of `tools`. What is no call of one of them, whole from its beginning, is content.

    White space around calls is dropped, unless content stands on both sides of it. `most` bounds how many calls there
    are: after these the answer is `over`. How the text is cut into pieces changes nothing.
    """

    def __init__(
        self, form: ToolFormat, tools: Container[str], most: int | None = None, new_id: Callable[[], str] = long_id
    ) -> None:
        self.calls = 0
        self.broken = False  # the answer has ended within a call's arguments
        self._form = form
        self._tools = tools
        self._most = most
        self._new_id = new_id
        self._held = ""  # text that is neither given out nor in a block
        self._block: CallBlock | None = None
        self._fresh = True  # nothing but calls so far on this line
        self._told = False  # there was content

    @property
    def over(self) -> bool:
        return self._most is not None and self.calls >= self._most and not self._in_call

    @property
    def _in_call(self) -> bool:
        return self._block is not None and self._block.in_call

    def feed(self, text: str) -> list[Part]:
        """The parts that are certain now."""
        self._held += text
        parts: list[Part] = []
        while self._held and not self.over and self._advance(parts):
            pass
        return parts

    def end(self) -> list[Part]:
        """What was held back."""
        parts: list[Part] = []
        if self._block is not None:
            self.broken = self._block.in_arguments
            self._block.end()
            self._leave(self._block, parts)
        if not self.over and (not self.calls or self._held.strip()):
            self._tell(self._held, parts)
        self._held = ""
        return parts

    def _advance(self, parts: list[Part]) -> bool:
        """One step on; False where more text is needed."""
        if self._block is not None:
            self._read_block(self._block, parts)
            return True
        found = self._start().search(self._held)
        end = found.start() if found else len(self._held) - overlap(self._held, self._form.opener)
        lead = without_end_space(self._held[:end])
        if not found:
            self._tell(lead, parts)
            self._held = self._held[len(lead) :]
            return False
        opened = bool(self._form.opener) and found[0].endswith(self._form.opener)
        self._tell(lead, parts)
        most = None if self._most is None else self._most - self.calls
        self._block = CallBlock(self._form, self._tools, self._held[len(lead) : found.end()], opened, most)
        self._held = self._held[found.end() :]
        return True

    def _start(self) -> re.Pattern[str]:
        """Where a block of calls begins: after its opener, or before the bracket of a call that has none."""
        starts = [re.escape(self._form.opener)] if self._form.opener else []
        if self._form.bare or not self._form.opener:
            line = r"(?:\A|\n)" if self._fresh else r"\n"
            starts.append(f"{line}[ \\t]{{0,{_INDENTED}}}(?={'[{[]' if self._form.listed else '{'})")
        return re.compile("|".join(starts))

    def _read_block(self, block: CallBlock, parts: list[Part]) -> None:
        used, events = block.feed(self._held)
        self._held = self._held[used:]
        for event in events:
            self._pass_on(event, parts)
        if block.closed:
            self._leave(block, parts)

    def _pass_on(self, event: CallEvent, parts: list[Part]) -> None:
        if isinstance(event, Begins):
            parts.append(ToolCallBegins(self.calls, self._new_id(), event.name))
            self.calls += 1
        else:
            parts.append(ToolCallArguments(self.calls - 1, event.text))

    def _leave(self, block: CallBlock, parts: list[Part]) -> None:
        self._block = None
        self._fresh = True
        self._held = block.unread + self._held
        self._tell(block.returned, parts)

    def _tell(self, text: str, parts: list[Part]) -> None:
        if self.calls and not self._told:
            text = text.lstrip()
        if not text:
            return
        self._told, self._fresh = True, False
        if isinstance(last := parts[-1] if parts else None, Content):
            parts[-1] = Content(last.text + text)
        else:
            parts.append(Content(text))
