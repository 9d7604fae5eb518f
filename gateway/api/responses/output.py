"""The output of a response as it grows: its items, and the events that tell of them in the order of OpenAI's."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from gateway.api.responses.items import Item, ItemIds
from gateway.api.shapes import Shape
from gateway.conversation.parts import Content, Part, Reasoning, ToolCallArguments, ToolCallBegins


class Output:
    """The items of one answer. Each method returns the events of what it changes, without their numbers."""

    def __init__(self, ids: ItemIds) -> None:
        self.items: list[Item] = []
        self._ids = ids
        self._open: _OpenItem | None = None  # the last of the items, while more of it may come

    def add(self, parts: Sequence[Part], logprobs: Sequence[Shape]) -> list[Shape]:
        """What has come; `logprobs` are those of its tokens, which go to the text among the parts."""
        events: list[Shape] = []
        for part in parts:
            if not (self._open and self._open.takes(part)):
                events += [*self._close("completed"), *self._begin(part)]
            assert self._open is not None
            events += self._open.add(part, logprobs if isinstance(part, Content) else ())
            logprobs = () if isinstance(part, Content) else logprobs
        return events

    def end(self, status: str, broken: bool = False) -> list[Shape]:
        """The answer ends; a whole one that says nothing and calls nothing says an empty text.

        A call at its end is whole unless it is `broken`, whatever the answer is.
        """
        last = status if not isinstance(self._open, _Call) else "incomplete" if broken else "completed"
        events = self._close(last)
        if status == "completed" and all(item["type"] == "reasoning" for item in self.items):
            events += [*self._begin(Content("")), *self._close(status)]
        return events

    def _begin(self, part: Part) -> list[Shape]:
        place = len(self.items)
        match part:
            case Content():
                self._open = _Message(self._ids.new("message"), place)
            case Reasoning():
                self._open = _Thinking(self._ids.new("reasoning"), place)
            case ToolCallBegins():
                self._open = _Call(self._ids.new("function_call"), place, part)
            case ToolCallArguments():
                raise AssertionError("arguments of a call that has not begun, or has ended")
        self.items.append(self._open.item)
        return self._open.began()

    def _close(self, status: str) -> list[Shape]:
        if self._open is None:
            return []
        self._open.item["status"] = status
        ended, self._open = self._open, None
        return ended.ended()


class _OpenItem(Protocol):
    """An item that grows. Its `item` is whole when it has `ended`."""

    item: Item

    def takes(self, part: Part) -> bool:
        """Whether that is more of the same item."""
        ...

    def began(self) -> list[Shape]: ...
    def add(self, part: Part, logprobs: Sequence[Shape]) -> list[Shape]: ...
    def ended(self) -> list[Shape]: ...


class _Message:
    """What the user is told: an item with one part of text."""

    def __init__(self, id: str, place: int) -> None:
        self._part: Shape = {"type": "output_text", "text": "", "annotations": [], "logprobs": []}
        self._texts: list[str] = []
        self._at = {"item_id": id, "output_index": place, "content_index": 0}
        self.item: Item = {"type": "message", "id": id, "role": "assistant", "status": "in_progress", "content": []}

    def takes(self, part: Part) -> bool:
        return isinstance(part, Content)

    def began(self) -> list[Shape]:
        added = _item_event("added", self.item, self._at)
        self.item["content"].append(self._part)
        return [added, _event("response.content_part.added", self._at, part=_copy(self._part))]

    def add(self, part: Part, logprobs: Sequence[Shape]) -> list[Shape]:
        assert isinstance(part, Content)
        self._texts.append(part.text)
        self._part["logprobs"] += logprobs
        return [_event("response.output_text.delta", self._at, delta=part.text, logprobs=list(logprobs))]

    def ended(self) -> list[Shape]:
        self._part["text"] = "".join(self._texts)
        done = {key: self._part[key] for key in ("text", "logprobs")}
        return [
            _event("response.output_text.done", self._at, **done),
            _event("response.content_part.done", self._at, part=_copy(self._part)),
            _item_event("done", self.item, self._at),
        ]


class _Thinking:
    """What a reasoning model thinks, as it is: no summary."""

    def __init__(self, id: str, place: int) -> None:
        self._part: Shape = {"type": "reasoning_text", "text": ""}
        self._texts: list[str] = []
        self._at = {"item_id": id, "output_index": place, "content_index": 0}
        self.item: Item = {
            "type": "reasoning",
            "id": id,
            "summary": [],
            "content": [],
            "encrypted_content": None,
            "status": "in_progress",
        }

    def takes(self, part: Part) -> bool:
        return isinstance(part, Reasoning)

    def began(self) -> list[Shape]:
        added = _item_event("added", self.item, self._at)
        self.item["content"].append(self._part)
        return [added, _event("response.content_part.added", self._at, part=_copy(self._part))]

    def add(self, part: Part, logprobs: Sequence[Shape]) -> list[Shape]:
        assert isinstance(part, Reasoning)
        self._texts.append(part.text)
        return [_event("response.reasoning_text.delta", self._at, delta=part.text)]

    def ended(self) -> list[Shape]:
        self._part["text"] = "".join(self._texts)
        return [
            _event("response.reasoning_text.done", self._at, text=self._part["text"]),
            _event("response.content_part.done", self._at, part=_copy(self._part)),
            _item_event("done", self.item, self._at),
        ]


class _Call:
    """A call of a function."""

    def __init__(self, id: str, place: int, begins: ToolCallBegins) -> None:
        self._at = {"item_id": id, "output_index": place}
        self._index = begins.index
        self._texts: list[str] = []
        self.item: Item = {
            "type": "function_call",
            "id": id,
            "call_id": begins.id,
            "name": begins.name,
            "arguments": "",
            "status": "in_progress",
        }

    def takes(self, part: Part) -> bool:
        return isinstance(part, ToolCallArguments) and part.index == self._index

    def began(self) -> list[Shape]:
        return [_item_event("added", self.item, self._at)]

    def add(self, part: Part, logprobs: Sequence[Shape]) -> list[Shape]:
        if isinstance(part, ToolCallBegins):
            return []
        assert isinstance(part, ToolCallArguments)
        self._texts.append(part.text)
        return [_event("response.function_call_arguments.delta", self._at, delta=part.text)]

    def ended(self) -> list[Shape]:
        self.item["arguments"] = "".join(self._texts)
        done = {key: self.item[key] for key in ("name", "arguments")}
        return [
            _event("response.function_call_arguments.done", self._at, **done),
            _item_event("done", self.item, self._at),
        ]


def _event(kind: str, at: Shape, **fields: object) -> Shape:
    return {"type": kind, **at, **fields}


def _item_event(kind: str, item: Item, at: Shape) -> Shape:
    return {"type": f"response.output_item.{kind}", "output_index": at["output_index"], "item": _copy(item)}


def _copy(shape: Shape) -> Shape:
    """As it is now: what it holds grows on, and events may wait to be sent."""
    return {key: list(value) if isinstance(value, list) else value for key, value in shape.items()}
