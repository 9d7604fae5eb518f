"""One call of a tool, read as it comes: what every format has in common."""

from __future__ import annotations

import json
import re
from collections.abc import Container
from dataclasses import dataclass
from typing import Protocol

NAME_FIELD = "name"
ARGUMENT_FIELDS = ("arguments", "parameters")
_FIELDS = (NAME_FIELD, *ARGUMENT_FIELDS, "type", "id")
_HEAD_CHARACTERS = 160  # of a call written as `name[CALL_ID]…[ARGS]{`: a name has 64 at most


@dataclass(frozen=True, slots=True)
class Begins:
    """A call has begun, of this tool."""

    name: str


@dataclass(frozen=True, slots=True)
class Arguments:
    """More of the arguments of the call that has begun."""

    text: str


CallEvent = Begins | Arguments


class Call(Protocol):
    """Reads one call. Until it has begun it may yet turn out to be none; then its text is the user's."""

    began: bool
    whole: bool
    failed: bool

    @property
    def in_arguments(self) -> bool:
        """It has begun, and its arguments have not ended."""
        ...

    def feed(self, text: str) -> tuple[int, list[CallEvent]]:
        """How many characters of `text` belong to it, and what they make. Fewer than all once it is whole or failed."""
        ...


class JsonEnd:
    """Finds where a JSON object, array or string ends, by its strings and brackets alone.

    So a value that is not quite JSON has an end as well.
    """

    def __init__(self) -> None:
        self._depth = 0
        self._in_string = self._escaped = False

    def passes(self, character: str) -> bool:
        """Is this the value's last character?"""
        if self._escaped:
            self._escaped = False
        elif self._in_string:
            self._escaped = character == "\\"
            self._in_string = character != '"'
        elif character == '"':
            self._in_string = True
        else:
            self._depth += (character in "{[") - (character in "}]")
        return self._depth <= 0 and not self._in_string and not self._escaped


def has_ended(value: str) -> bool:
    """Is a JSON value there to its end?"""
    end = JsonEnd()
    return any(map(end.passes, value.lstrip()))


class CallObject:
    """A call as a JSON object: `{"name": …, "arguments": {…}}`, its fields in any order.

    It begins when its name is known to be a tool's and its arguments begin. One whose arguments come first is held back
    until it is whole. With `bare`, where nothing but its form says that it is a call, it may have no other fields than
    calls have, and needs arguments: any other object is seen to be none at its first field, and not held back.
    """

    def __init__(self, tools: Container[str], bare: bool = False) -> None:
        self.began = self.whole = self.failed = False
        self._tools = tools
        self._bare = bare
        self._step = self._at_start
        self._token = ""  # what has been read of a field's name or value
        self._end = JsonEnd()
        self._field = self._name = ""
        self._arguments: str | None = None
        self._streaming = False
        self._begins: list[CallEvent] = []
        self._written: list[str] = []  # arguments

    @property
    def in_arguments(self) -> bool:
        return self._streaming

    def feed(self, text: str) -> tuple[int, list[CallEvent]]:
        used = 0
        while used < len(text) and not (self.whole or self.failed):
            used += self._step(text[used])
        events = [*self._begins, *([Arguments("".join(self._written))] if self._written else [])]
        self._begins, self._written = [], []
        return used, events

    # Each of these takes one character, says whether it was used, and which of them has the next one.

    def _at_start(self, character: str) -> bool:
        self._step = self._at_field
        return character == "{" or self._breaks()

    def _at_field(self, character: str) -> bool:
        if character == '"':
            self._token, self._end, self._step = "", JsonEnd(), self._in_field
            return self._in_field(character)
        return self._closes() if character == "}" else character.isspace() or self._breaks()

    def _in_field(self, character: str) -> bool:
        self._token += character
        if self._end.passes(character):
            field = _parsed(self._token)
            if self._bare and field not in _FIELDS:
                return self._breaks()
            self._field, self._step = str(field), self._at_colon
        return True

    def _at_colon(self, character: str) -> bool:
        if character == ":":
            self._step = self._at_value
            return True
        return character.isspace() or self._breaks()

    def _at_value(self, character: str) -> bool:
        if character.isspace():
            return True
        self._token, self._end = "", JsonEnd()
        if character not in '{["':
            self._step = self._in_scalar
            return self._in_scalar(character)
        if character == "{" and self._name and self._field in ARGUMENT_FIELDS and not self.began:
            self._begin()
            self._streaming = True
        self._step = self._in_value
        return self._in_value(character)

    def _in_value(self, character: str) -> bool:
        if self._streaming:
            self._written.append(character)
        else:
            self._token += character
        if self._end.passes(character):
            self._step = self._after_value
            if not self._streaming:
                return self._has_value()
            self._streaming = False
        return True

    def _in_scalar(self, character: str) -> bool:
        if character in ",}]" or character.isspace():
            self._step = self._after_value
            self._has_value()
            return False
        self._token += character
        return True

    def _after_value(self, character: str) -> bool:
        if character == ",":
            self._step = self._at_field
            return True
        return self._closes() if character == "}" else character.isspace() or self._breaks()

    def _has_value(self) -> bool:
        if self.began:
            return True
        if self._field == NAME_FIELD:
            name = _parsed(self._token)
            if not isinstance(name, str) or name not in self._tools:
                return self._breaks()
            self._name = name
        elif self._field in ARGUMENT_FIELDS:
            self._arguments = _object_text(self._token)
            if self._arguments is None:
                return self._breaks()
        return True

    def _begin(self) -> None:
        self.began = True
        self._begins.append(Begins(self._name))

    def _closes(self) -> bool:
        if not self.began:
            if not self._name or (self._bare and self._arguments is None):
                return self._breaks()
            self._begin()
            self._written.append(self._arguments or "{}")
        self.whole = True
        return True

    def _breaks(self) -> bool:
        """The character is not part of it: a call that has begun ends here, any other was none."""
        self.whole, self.failed = self.began, not self.began
        return False


class NamedCall:
    """A call as its name, perhaps a mark, and its arguments: `name[ARGS]{…}`."""

    def __init__(self, tools: Container[str]) -> None:
        self.began = self.whole = self.failed = False
        self._tools = tools
        self._head = ""
        self._end = JsonEnd()

    @property
    def in_arguments(self) -> bool:
        return self.began and not self.whole

    def feed(self, text: str) -> tuple[int, list[CallEvent]]:
        used, begins, written = 0, list[CallEvent](), list[str]()
        while used < len(text) and not (self.whole or self.failed):
            character = text[used]
            if not self.began:
                begins += self._at_head(character)
            if self.began:
                written.append(character)
                self.whole = self._end.passes(character)
            used += not self.failed
        return used, [*begins, *([Arguments("".join(written))] if written else [])]

    def _at_head(self, character: str) -> list[CallEvent]:
        if character != "{":
            self._head += character
            self.failed = len(self._head) > _HEAD_CHARACTERS or not re.match(r"[\w\-\[\]\s]", character)
            return []
        head = re.fullmatch(r"\s*([\w-]+)\s*(?:\[CALL_ID\]\s*\w+\s*)?(?:\[ARGS\]\s*)?", self._head)
        if not head or head[1] not in self._tools:
            self.failed = True
            return []
        self.began = True
        return [Begins(head[1])]


def _parsed(text: str) -> object:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _object_text(value: str) -> str | None:
    """The arguments' JSON object that `value` is: as it stands, or in a string, or null; None where it is none."""
    parsed = _parsed(value)
    if isinstance(parsed, str):
        value, parsed = parsed, _parsed(parsed)
    if isinstance(parsed, dict):
        return value
    return "{}" if value == "null" else None
