"""Reading answers in tests: text in pieces, and the parts that it makes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import count
from typing import Protocol

from gateway.conversation.parts import Content, Part, Reasoning, ToolCallArguments, ToolCallBegins


class FeedsParts(Protocol):
    def feed(self, text: str) -> list[Part]: ...


def numbered() -> Iterable[str]:
    return (f"id{number}" for number in count())


def joined(parts: Iterable[Part]) -> list[Part]:
    """The same parts, but in as few pieces as can be."""
    whole: list[Part] = []
    for part in parts:
        match (whole[-1] if whole else None, part):
            case (Content(before), Content(text)):
                whole[-1] = Content(before + text)
            case (Reasoning(before), Reasoning(text)):
                whole[-1] = Reasoning(before + text)
            case (ToolCallArguments(index, before), ToolCallArguments(same, text)) if index == same:
                whole[-1] = ToolCallArguments(index, before + text)
            case _:
                whole.append(part)
    return whole


def calls(parts: Sequence[Part]) -> list[tuple[str, str]]:
    """Names and arguments."""
    begun = [part for part in parts if isinstance(part, ToolCallBegins)]
    assert [part.index for part in begun] == list(range(len(begun)))
    arguments = [part for part in parts if isinstance(part, ToolCallArguments)]
    return [(part.name, "".join(each.text for each in arguments if each.index == part.index)) for part in begun]


def content(parts: Sequence[Part]) -> str:
    return "".join(part.text for part in parts if isinstance(part, Content))


def reasoning(parts: Sequence[Part]) -> str:
    return "".join(part.text for part in parts if isinstance(part, Reasoning))
