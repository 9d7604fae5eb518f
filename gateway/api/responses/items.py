"""The items of a response's input: checked, and brought into one form, which is also how they are stored."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import Field

from gateway.api.body import check
from gateway.api.request_model import Strict
from shared.errors import InvalidRequest

Item = dict[str, Any]
"""An item of an input or an output, in OpenAI's shape. Each has an `id` once it is stored."""

ITEMS, PARTS, ID_CHARACTERS = 10_000, 1_000, 256
ID_PREFIXES = {"message": "msg", "reasoning": "rs", "function_call": "fc", "function_call_output": "fco"}

ItemId = Annotated[str, Field(min_length=1, max_length=ID_CHARACTERS)]
CallId = Annotated[str, Field(min_length=1, max_length=ID_CHARACTERS)]


class _Message(Strict):
    id: ItemId | None = None
    role: Literal["system", "developer", "user", "assistant"]


class _FunctionCall(Strict):
    id: ItemId | None = None
    call_id: CallId
    name: Annotated[str, Field(min_length=1, max_length=ID_CHARACTERS)]
    arguments: str


class _FunctionCallOutput(Strict):
    id: ItemId | None = None
    call_id: CallId


class _Reasoning(Strict):
    id: ItemId | None = None
    summary: Annotated[list[dict[str, Any]], Field(max_length=PARTS)] | None = None
    content: Annotated[list[dict[str, Any]], Field(max_length=PARTS)] | None = None
    encrypted_content: str | None = None


class _Reference(Strict):
    id: ItemId


class _Text(Strict):
    text: str


class _Refusal(Strict):
    refusal: str


class ItemIds:
    """New ids for the response `resp_…` and its items: an item's tells which response it belongs to."""

    def __init__(self) -> None:
        self._root = secrets.token_hex(16)
        self._count = 0
        self.response = f"resp_{self._root}"

    def new(self, kind: str) -> str:
        """For an item whose `type` is `kind`."""
        self._count += 1
        return f"{ID_PREFIXES[kind]}_{self._root}{self._count:04x}"


def response_of(item_id: str) -> str:
    """The id of the response to which an item of such an id would belong."""
    return f"resp_{item_id.partition('_')[2][:32]}"


def text_message(text: str, role: str = "user") -> Item:
    """A message of one text."""
    return {"type": "message", "role": role, "content": [{"type": "input_text", "text": text}]}


def checked(items: Sequence[Mapping[str, Any]], within: str = "input") -> list[Item]:
    """The items as they are stored, but for ids that they came without. Raises InvalidRequest with the field's path."""
    return [_checked(item, f"{within}[{place}]") for place, item in enumerate(items)]


def _checked(item: Mapping[str, Any], path: str) -> Item:
    kind = item.get("type") or ("message" if "role" in item else "item_reference")
    reader = _READERS.get(kind) if isinstance(kind, str) else None
    if reader is None:
        taken = ", ".join(_READERS)
        reason = f"{path}.type: {str(kind)[:60]!r} is not supported: the items taken are {taken}"
        raise InvalidRequest(reason, f"{path}.type", "unsupported_value")
    return {key: value for key, value in {"type": kind, **reader(item, path)}.items() if value is not None}


def _message(item: Mapping[str, Any], path: str) -> Item:
    message = check(_Message, item, path)
    said = message.role == "assistant"
    content = _parts(item.get("content"), "output_text" if said else "input_text", f"{path}.content", said)
    return {"id": message.id, "role": message.role, "status": "completed", "content": content}


def _function_call(item: Mapping[str, Any], path: str) -> Item:
    return {**check(_FunctionCall, item, path).model_dump(), "status": "completed"}


def _function_call_output(item: Mapping[str, Any], path: str) -> Item:
    output = item.get("output")
    if not isinstance(output, str):
        output = _parts(output, "input_text", f"{path}.output")
    return {**check(_FunctionCallOutput, item, path).model_dump(), "output": output, "status": "completed"}


def _reasoning(item: Mapping[str, Any], path: str) -> Item:
    reasoning = check(_Reasoning, item, path)
    content = _texts(reasoning.content or (), "reasoning_text", f"{path}.content")
    summary = _texts(reasoning.summary or (), "summary_text", f"{path}.summary")
    return {**reasoning.model_dump(), "summary": summary, "content": content or None, "status": "completed"}


def _texts(parts: Sequence[Mapping[str, Any]], kind: str, path: str) -> list[Item]:
    return [{"type": kind, "text": check(_Text, part, f"{path}[{n}]").text} for n, part in enumerate(parts)]


def _reference(item: Mapping[str, Any], path: str) -> Item:
    return check(_Reference, item, path).model_dump()


_READERS: Mapping[str, Callable[[Mapping[str, Any], str], Item]] = {
    "message": _message,
    "function_call": _function_call,
    "function_call_output": _function_call_output,
    "reasoning": _reasoning,
    "item_reference": _reference,
}


def _parts(content: object, kind: str, path: str, refusals: bool = False) -> list[Item]:
    """A string, or a list of parts, as a list of parts of that kind; with `refusals`, those may be among them."""
    if isinstance(content, str):
        return [_text_part(content, kind)]
    if not isinstance(content, list) or not 0 < len(content) <= PARTS:
        reason = f"{path}: must be a string, or a list of 1 to {PARTS} parts"
        raise InvalidRequest(reason, path)
    return [_part(part, kind, f"{path}[{place}]", refusals) for place, part in enumerate(content)]


def _part(part: object, kind: str, path: str, refusals: bool) -> Item:
    if not isinstance(part, dict):
        raise InvalidRequest(f"{path}: must be an object with a type", path)
    given = part.get("type")
    if given in ("input_text", "output_text"):  # some clients send an assistant's words as input
        return _text_part(check(_Text, part, path).text, kind)
    if given == "refusal" and refusals:
        return {"type": "refusal", "refusal": check(_Refusal, part, path).refusal}
    reason = f"{path}.type: {str(given)[:60]!r} is not supported here: only text is, as {kind!r}"
    raise InvalidRequest(reason, f"{path}.type", "unsupported_value")


def _text_part(text: str, kind: str) -> Item:
    noted = {"annotations": []} if kind == "output_text" else {}
    return {"type": kind, "text": text, **noted}
