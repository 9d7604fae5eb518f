"""A stretch of calls in an answer: those after one opener, or after one another at the beginning of a line."""

from __future__ import annotations

from collections.abc import Container

from gateway.conversation.tool_formats.calls import Call, CallEvent, CallObject, NamedCall
from gateway.conversation.tool_formats.formats import ToolFormat


class CallBlock:
    """Reads calls up to where they end. `closed` is True then.

    `returned` is text that turned out to be no call, `unread` what came after the last one. `lead` is what came before
    the first: if that is none, it is given back with it. Calls that were not `opened` by a mark must be seen to be such
    by their form. There are at most `most`.
    """

    def __init__(
        self, form: ToolFormat, tools: Container[str], lead: str, opened: bool, most: int | None = None
    ) -> None:
        self.closed = False
        self.returned = self.unread = ""
        self._made = 0
        self._most = most
        self._form = form
        self._tools = tools
        self._raw = lead
        self._opened = opened
        self._in_list = False
        self._call: Call | None = None
        self._step = self._before
        self._after_call = ""  # since the last one: white space, and the beginning of the closer

    @property
    def in_call(self) -> bool:
        """A call has begun and is not whole."""
        return self._call is not None and self._call.began and not self._call.whole

    @property
    def in_arguments(self) -> bool:
        """More of a call's arguments has to come."""
        return self._call is not None and self._call.in_arguments

    def feed(self, text: str) -> tuple[int, list[CallEvent]]:
        """How many characters of `text` belong to it, and what they make. Fewer than all once it is closed."""
        used, events = 0, list[CallEvent]()
        while used < len(text) and not self.closed:
            if self._call is None:
                used += self._step(text[used])
                continue
            taken, made = self._call.feed(text[used:])
            self._raw += "" if self._call.began else text[used : used + taken]
            used += taken
            events += made
            self._see_end(self._call)
        return used, events

    def end(self) -> None:
        """The answer is over: a call that has not begun is none."""
        if not self._made if self._call is None else not self._call.began:
            self._give_back()
        self.closed = True

    def _see_end(self, call: Call) -> None:
        if call.whole:
            self._call, self._raw, self._after_call, self._step = None, "", "", self._after
            self._made += 1
            self.closed = self._made == self._most
        elif call.failed:
            self._give_back()

    def _give_back(self) -> None:
        self.returned, self._raw, self.closed = self._raw, "", True

    # Each of these takes a character between calls and says whether it belongs to the block.

    def _before(self, character: str) -> bool:
        if character == "{" or self._may_be_name(character):
            is_object = character == "{"
            self._call = CallObject(self._tools, not self._opened) if is_object else NamedCall(self._tools)
            return False
        if character == "[" and not self._in_list:
            self._in_list = True
        elif not character.isspace():
            return self._is_over(character)
        self._raw += character
        return True

    def _may_be_name(self, character: str) -> bool:
        named = self._form.opener == "[TOOL_CALLS]" and self._opened and not self._in_list
        return named and (character.isalnum() or character in "_-")

    def _is_over(self, character: str) -> bool:
        if not self._made:
            self._give_back()
        self.closed = True
        return self._in_list and character == "]" and self._made > 0

    def _after(self, character: str) -> bool:
        closer, begun = self._form.closer, self._after_call.lstrip() + character
        if closer and not self._in_list and closer.startswith(begun):
            self.closed = begun == closer
        elif begun != character:  # it began like the closer
            return self._leave()
        elif self._in_list and character == "]":
            self._in_list = False
            self.closed = not closer
        elif character == "{" or (character in ",;" and (self._in_list or not closer)):
            self._step = self._before
            return character != "{"
        elif not character.isspace():
            return self._leave()
        self._after_call += character
        return True

    def _leave(self) -> bool:
        self.unread, self.closed = self._after_call, True
        return False
