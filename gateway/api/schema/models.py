"""Replies of `/v1/models`."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from gateway.api.schema.reply import Reply


class ModelReply(Reply):
    """A model that is served."""

    id: str
    object: Literal["model"]
    created: int = Field(description="Unix time since when this gateway serves it.")
    owned_by: str
    context_length: int = Field(description="Tokens of prompt and answer together.")
    max_model_len: int = Field(description="The same, as vLLM names it.")


class ModelListReply(Reply):
    object: Literal["list"]
    data: list[ModelReply]
