"""Errors as OpenAI's clients expect them. The one place where our errors become statuses and codes."""

from __future__ import annotations

import logging
import math
import traceback
from dataclasses import dataclass, field
from typing import Any

from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException

from shared.errors import (
    CorollaError,
    DeadlinePassed,
    GrammarFailed,
    HopFailed,
    HostRefused,
    InvalidKey,
    InvalidRequest,
    LinkLost,
    NoRoute,
    NotStored,
    OutOfCache,
    QueueFull,
    QueueTimeout,
    RateLimited,
    ShuttingDown,
    StoreUnavailable,
    TooManyRequests,
    UnknownModel,
)

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ErrorReply:
    """What a client is told: HTTP status, the fields of OpenAI's error object, and headers."""

    status: int
    message: str
    code: str | None
    param: str | None = None
    headers: dict[str, str] = field(default_factory=dict)

    @property
    def body(self) -> dict[str, Any]:
        kind = "server_error" if self.status >= 500 else _KINDS.get(self.status, "invalid_request_error")
        return {"error": {"message": self.message, "type": kind, "param": self.param, "code": self.code}}


_KINDS = {429: "rate_limit_error"}

# The first class that fits decides: status, code, seconds after which another try may succeed.
_REPLIES: tuple[tuple[type[CorollaError], int, str, int | None], ...] = (
    (NoRoute, 503, "no_route", 5),
    (OutOfCache, 503, "out_of_cache", 60),
    (GrammarFailed, 400, "grammar_failed", None),
    (NotStored, 404, "not_found", None),
    (HostRefused, 403, "host_not_allowed", None),
    (QueueFull, 429, "queue_full", 5),
    (TooManyRequests, 429, "too_many_requests", 5),
    (StoreUnavailable, 503, "store_unavailable", 5),
    (QueueTimeout, 503, "queue_timeout", 5),
    (ShuttingDown, 503, "shutting_down", 5),
    (DeadlinePassed, 504, "deadline_passed", None),
    (HopFailed, 502, "hop_failed", None),
    (LinkLost, 502, "hop_failed", None),
)
_FINAL = ("out_of_cache", "grammar_failed")
"""No peer is large enough, or the grammar is at fault: OpenAI's clients would try twice more by themselves."""
_HTTP_CODES = {404: "not_found", 405: "method_not_allowed", 408: "request_timeout", 413: "request_too_large"}
_HTTP_REASONS = {"Not Found": "there is nothing under this path", "Method Not Allowed": "this path takes other methods"}
_INTERNAL = ErrorReply(500, "the gateway failed to answer this request; its log says more", "internal_error")


def reply_to(error: Exception) -> ErrorReply:
    """What the client is told of `error`. One that nobody foresaw is logged, and told without internals."""
    match error:
        case InvalidRequest():
            return ErrorReply(400, str(error), error.code, error.param)
        case UnknownModel():
            return ErrorReply(404, str(error), "model_not_found", "model")
        case InvalidKey():
            return ErrorReply(401, str(error), "invalid_api_key", headers={"WWW-Authenticate": "Bearer"})
        case RateLimited():
            wait = str(math.ceil(error.retry_after_s))
            return ErrorReply(429, str(error), "rate_limit_exceeded", headers={"Retry-After": wait})
        case RequestValidationError():
            return _invalid_parameter(error)
        case HTTPException():
            status, headers = error.status_code, dict(error.headers or {})
            reason = _HTTP_REASONS.get(error.detail, error.detail)
            return ErrorReply(status, reason, _HTTP_CODES.get(status), headers=headers)
    for kind, status, code, retry_after_s in _REPLIES:
        if isinstance(error, kind):
            headers = {} if retry_after_s is None else {"Retry-After": str(retry_after_s)}
            if code in _FINAL:
                headers["x-should-retry"] = "false"
            blame = "a peer that worked on this answer failed: " if code == "hop_failed" else ""
            return ErrorReply(status, f"{blame}{error}", code, headers=headers)
    log_unexpected(error)
    return _INTERNAL


def _invalid_parameter(error: RequestValidationError) -> ErrorReply:
    """The first parameter of a path or a query that FastAPI finds at fault; its value is not repeated."""
    first = error.errors()[0]
    param = ".".join(str(part) for part in first["loc"][1:])
    return ErrorReply(400, f"{param}: {first['msg']}" if param else str(first["msg"]), None, param or None)


def log_unexpected(error: BaseException) -> None:
    """Type and place of an error and of its causes. Their texts stay out: they may quote a prompt."""
    lines: list[str] = []
    link: BaseException | None = error
    while link is not None:
        lines += [type(link).__qualname__, "\n", *traceback.format_tb(link.__traceback__)]
        link = link.__cause__ or link.__context__
    logger.error("unexpected error: %s", "".join(lines))
