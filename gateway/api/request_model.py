"""What the bodies of all requests have in common: which fields are done, refused or ignored."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from pydantic import BaseModel, BeforeValidator, ConfigDict

from shared.errors import InvalidRequest


class Strict(BaseModel):
    """JSON as it is: no number is taken for a string. Fields that nobody knows are ignored, as clients expect."""

    model_config = ConfigDict(strict=True, frozen=True, extra="ignore", hide_input_in_errors=True)


class RequestModel(Strict):
    """A request's body. Its fields are what is done.

    `refused` fields change an answer's meaning and are not built: each with the values, besides null, that ask for
    nothing; any other is a 400 rather than dropped in silence. `replaced` says what to send instead of some of them.
    `ignored` fields change nothing here, each for a reason. A name with dots is that of a field within a field.
    """

    refused: ClassVar[Mapping[str, tuple[object, ...]]] = {}
    replaced: ClassVar[Mapping[str, str]] = {}
    ignored: ClassVar[Mapping[str, str]] = {}

    @classmethod
    def refuse_unsupported(cls, body: Mapping[str, Any]) -> None:
        """Raises InvalidRequest that names the first field which asks for something that is not built."""
        for name, harmless in cls.refused.items():
            value = _at(body, name)
            if value is not None and not any(_same(value, default) for default in harmless):
                reason = f"{name} is not supported" + (", except with its default" if harmless else "")
                reason += f": send {cls.replaced[name]} instead" if name in cls.replaced else ""
                raise InvalidRequest(reason, name, "unsupported_parameter")


def described_as(kind: Any) -> BeforeValidator:
    """For a field whose own type says less, or more, than what it takes: what the OpenAPI document says instead."""
    return BeforeValidator(_as_it_is, json_schema_input_type=kind)


def _as_it_is(value: object) -> object:
    return value


def _same(value: object, default: object) -> bool:
    """Equality in JSON's sense, where `true` is not 1."""
    return value == default and isinstance(value, bool) == isinstance(default, bool)


def _at(body: object, name: str) -> object:
    """The value at `field` or `field.within`, None where there is none."""
    for part in name.split("."):
        body = body.get(part) if isinstance(body, dict) else None
    return body
