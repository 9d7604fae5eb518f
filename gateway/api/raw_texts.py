"""Texts as completions and embeddings take them: without a chat template, written out or as token ids."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Annotated, Any

from pydantic import Field, PlainValidator

from gateway.api.sampling_fields import TokenId, refuse_foreign_ids
from gateway.generation.completion import ServedModel
from shared.errors import InvalidRequest

RawText = str | list[int]

TEXTS, IDS = 2048, 1_000_000  # of one request; what a model can read is less


def _listed(value: object) -> list[RawText]:
    """One text or several, as a list of them."""
    if isinstance(value, str):
        return [value]
    kinds = _kinds(value)
    if isinstance(value, list):
        _check_size(value, kinds)
    if kinds == {int}:
        return [value]  # pyright: ignore[reportReturnType]
    if kinds == {str} or (kinds == {list} and all(_kinds(item) == {int} for item in value)):  # pyright: ignore[reportGeneralTypeIssues]
        return value  # pyright: ignore[reportReturnType]
    raise ValueError(
        "must be a string, a list of strings, a list of token ids, or a list of lists of token ids, none of them empty"
    )


def _check_size(value: list[Any], kinds: set[type]) -> None:
    """Raises ValueError."""
    if kinds != {int} and len(value) > TEXTS:
        raise ValueError(f"it may hold at most {TEXTS} texts: send fewer at a time")
    if kinds in ({int}, {list}) and sum(map(len, [value] if kinds == {int} else value)) > IDS:
        raise ValueError(f"it may hold at most {IDS} token ids: send fewer at a time")


def _kinds(value: object) -> set[type]:
    """The types of a list's items; none for what is no list."""
    return set(map(type, value)) if isinstance(value, list) else set()


TokenIds = Annotated[list[TokenId], Field(min_length=1)]
RawTexts = Annotated[list[RawText], PlainValidator(_listed)]
"""As a list; what is taken is described where the limits are."""


async def encode_all(model: ServedModel, texts: Sequence[RawText], param: str, special: bool = True) -> list[list[int]]:
    """Token ids of each text, with the tokens that the model's tokenizer begins a text with if `special`.

    Raises InvalidRequest where one has none, or has ids that are not the model's.
    """
    return [await _encode(model, text, place, special) for place, text in named(texts, param)]


def named(texts: Sequence[RawText], param: str) -> Iterator[tuple[str, RawText]]:
    """Each text with the path by which errors call it."""
    if len(texts) == 1:
        return iter([(param, texts[0])])
    return ((f"{param}[{number}]", text) for number, text in enumerate(texts))


async def _encode(model: ServedModel, text: RawText, param: str, special: bool) -> list[int]:
    if isinstance(text, list):
        refuse_foreign_ids(model, text, param)
        return text
    ids = await model.tokenizer.encode_text(text, special)
    if not ids:
        raise InvalidRequest(f"{param}: the text comes to no tokens: it must not be empty", param)
    return ids
