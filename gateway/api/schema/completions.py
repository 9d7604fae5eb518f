"""Replies of `/v1/completions`."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from gateway.api.schema.reply import Reply, Usage


class CompletionLogprobs(Reply):
    """One entry a token; offsets count characters of the choice's text."""

    tokens: list[str]
    token_logprobs: list[float | None]
    top_logprobs: list[dict[str, float] | None] | None
    text_offset: list[int]


class CompletionChoice(Reply):
    index: int
    text: str
    logprobs: CompletionLogprobs | None
    finish_reason: Literal["stop", "length"] | None = Field(description="Null in all but a choice's last chunk.")
    token_ids: list[int] | None = Field(default=None, description="Only with `return_token_ids`.")
    prompt_token_ids: list[int] | None = Field(default=None, description="Only with `return_token_ids`.")


class CompletionReply(Reply):
    """The object; in a stream, a chunk of the same shape."""

    id: str
    object: Literal["text_completion"]
    created: int
    model: str
    choices: list[CompletionChoice]
    usage: Usage | None = None
    system_fingerprint: str
