"""The body of an embedding request."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal

from pydantic import Field, model_validator

from gateway.api.raw_texts import RawTexts, TokenIds
from gateway.api.request_model import RequestModel, described_as
from shared.errors import InvalidRequest

INPUTS_LIMIT = 2048
TOKENS_LIMIT = 300_000
"""Of all inputs together; both limits are OpenAI's."""

Text = Annotated[str, Field(min_length=1)]
Texts = Annotated[list[Text], Field(min_length=1, max_length=INPUTS_LIMIT)]
TextsOfIds = Annotated[list[TokenIds], Field(min_length=1, max_length=INPUTS_LIMIT)]


class EmbeddingRequest(RequestModel):
    """What is asked for. Null means the default, as it does at OpenAI."""

    refused: ClassVar[Mapping[str, tuple[object, ...]]] = {
        "messages": (),
        "normalize": (True,),
        "truncate_prompt_tokens": (),
    }
    ignored: ClassVar[Mapping[str, str]] = {
        "user": "it names the end user to OpenAI's abuse detection, which Corolla has not",
    }

    model: Annotated[str, Field(min_length=1, max_length=1000)]
    input: Annotated[RawTexts, described_as(Text | Texts | TokenIds | TextsOfIds)]
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: Annotated[int, Field(ge=1)] | None = None
    add_special_tokens: bool | None = None  # vLLM's: false for a text without the tokenizer's own first token

    @model_validator(mode="after")
    def _is_no_more_than_allowed(self) -> EmbeddingRequest:
        if len(self.input) > INPUTS_LIMIT:
            raise InvalidRequest(f"input: it may hold at most {INPUTS_LIMIT} texts: send fewer at a time", "input")
        return self
