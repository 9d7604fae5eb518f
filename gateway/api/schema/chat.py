"""Replies of `/v1/chat/completions`: the object, and the chunks of a stream."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from gateway.api.schema.reply import Reply, Usage

FinishReason = Literal["stop", "length", "tool_calls"]


class CalledFunctionReply(Reply):
    name: str
    arguments: str = Field(description="A JSON text.")


class ToolCallReply(Reply):
    id: str
    type: Literal["function"]
    function: CalledFunctionReply


class ChatTokenLogprob(Reply):
    token: str
    logprob: float
    bytes: list[int] | None


class ChatTokenLogprobs(ChatTokenLogprob):
    top_logprobs: list[ChatTokenLogprob]


class ChatLogprobs(Reply):
    content: list[ChatTokenLogprobs] | None
    refusal: None


class ChatAnswer(Reply):
    """What the model says."""

    role: Literal["assistant"]
    content: str | None
    refusal: None
    annotations: list[dict[str, Any]] = Field(max_length=0)
    reasoning_content: str | None = Field(default=None, description="What a reasoning model thought before.")
    tool_calls: list[ToolCallReply] | None = None


class ChatChoice(Reply):
    index: int
    message: ChatAnswer
    logprobs: ChatLogprobs | None
    finish_reason: FinishReason
    token_ids: list[int] | None = Field(default=None, description="Only with `return_token_ids`.")


class ChatCompletionReply(Reply):
    id: str
    object: Literal["chat.completion"]
    created: int
    model: str
    choices: list[ChatChoice]
    usage: Usage
    service_tier: Literal["default"]
    system_fingerprint: str = Field(description="Of model and numerics: with the same one, a seed gives the same text.")
    prompt_token_ids: list[int] | None = Field(default=None, description="Only with `return_token_ids`.")


class CalledFunctionDelta(Reply):
    name: str | None = None
    arguments: str | None = None


class ToolCallDelta(Reply):
    """`id`, `type` and the function's name come once, with the first delta of a call."""

    index: int
    id: str | None = None
    type: Literal["function"] | None = None
    function: CalledFunctionDelta


class ChatDelta(Reply):
    role: Literal["assistant"] | None = None
    content: str | None = None
    refusal: None = None
    reasoning_content: str | None = None
    tool_calls: list[ToolCallDelta] | None = None


class ChatChunkChoice(Reply):
    index: int
    delta: ChatDelta
    logprobs: ChatLogprobs | None
    finish_reason: FinishReason | None
    token_ids: list[int] | None = Field(default=None, description="Only with `return_token_ids`.")


class ChatCompletionChunkReply(Reply):
    """The data of one event; `[DONE]` comes after the last."""

    id: str
    object: Literal["chat.completion.chunk"]
    created: int
    model: str
    choices: list[ChatChunkChoice]
    usage: Usage | None = Field(default=None, description="With `stream_options.include_usage`, in the last chunk.")
    service_tier: Literal["default"]
    system_fingerprint: str
    prompt_token_ids: list[int] | None = None
