"""Who has sent a request: the key that it came with, where keys are asked for."""

from __future__ import annotations

from dataclasses import dataclass

from fastapi import Request
from starlette.types import Scope


@dataclass(frozen=True, slots=True)
class Caller:
    """`id` is that of the caller's key, and empty where no key is asked for: then all callers are one.

    The limits are the key's, None where it has none.
    """

    id: str = ""
    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None


ANYBODY = Caller()


def caller_of(request: Request) -> Caller:
    """Whom the access check has found."""
    return caller_in(request.scope)


def caller_in(scope: Scope) -> Caller:
    """The same, for middleware."""
    return scope.get("state", {}).get("caller", ANYBODY)


def tell_caller(scope: Scope, caller: Caller) -> None:
    """For all that comes after the access check."""
    scope.setdefault("state", {})["caller"] = caller
