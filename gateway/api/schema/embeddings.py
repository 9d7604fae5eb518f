"""Replies of `/v1/embeddings`."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from gateway.api.schema.reply import Reply


class EmbeddingReply(Reply):
    index: int
    object: Literal["embedding"]
    embedding: list[float] | str = Field(description="Numbers, or the base64 of little-endian float32.")


class EmbeddingUsage(Reply):
    prompt_tokens: int
    total_tokens: int


class EmbeddingListReply(Reply):
    object: Literal["list"]
    data: list[EmbeddingReply]
    model: str
    usage: EmbeddingUsage
