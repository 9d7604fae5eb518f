"""What all replies have in common: they are described by models, for the OpenAPI document and for tests."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field


class Reply(BaseModel):
    """A JSON object that goes out. Handlers build it as a dict; a test holds the one against the other."""

    model_config = ConfigDict(frozen=True, protected_namespaces=())


class ErrorDetail(Reply):
    """OpenAI's error object."""

    message: str = Field(description="What is wrong, and what to do.")
    type: str
    param: str | None = Field(description="The field of the request that is at fault.")
    code: str | None = Field(description="One word for programs.")


class ErrorReply(Reply):
    """The body of every answer whose status is 400 or above; in a stream, the data of the event that ends it."""

    error: ErrorDetail


class PromptTokensDetails(Reply):
    cached_tokens: int
    audio_tokens: int


class CompletionTokensDetails(Reply):
    reasoning_tokens: int
    audio_tokens: int
    accepted_prediction_tokens: int
    rejected_prediction_tokens: int


class Usage(Reply):
    """Tokens that a request has cost."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptTokensDetails
    completion_tokens_details: CompletionTokensDetails


class Deleted(Reply):
    """Something stored is gone."""

    id: str
    object: str
    deleted: Literal[True]
