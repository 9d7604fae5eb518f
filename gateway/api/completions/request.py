"""The body of a completion request: OpenAI's, and what other servers have beside it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar

from pydantic import Field, model_validator

from gateway.api.chat.format import FormatField
from gateway.api.chat.request import CHOICES, StreamOptions
from gateway.api.logprobs import TOP_LIMIT
from gateway.api.raw_texts import RawText, RawTexts, TokenIds
from gateway.api.request_model import RequestModel, described_as
from gateway.api.sampling_fields import SamplingFields, StopField
from gateway.conversation.ask import AnswerFormat, JsonSchema
from shared.errors import InvalidRequest

DEFAULT_MAX_TOKENS = 16
CHOICES_LIMIT = 128
"""Of all prompts together, those of `best_of` that are not given back among them."""
SCORES_LIMIT = 1_000_000
"""Log probabilities of prompts in one answer: each is some twenty bytes of it, and more here while it is made."""

Texts = Annotated[list[str], Field(min_length=1, max_length=CHOICES_LIMIT)]
TextsOfIds = Annotated[list[TokenIds], Field(min_length=1, max_length=CHOICES_LIMIT)]


class CompletionRequest(SamplingFields, RequestModel):
    """What is asked for. Null means the default, as it does at OpenAI."""

    refused: ClassVar[Mapping[str, tuple[object, ...]]] = {
        "allowed_token_ids": ([],),
        "bad_words": ([],),
        "guided_choice": ([],),
        "guided_grammar": (),
        "guided_regex": (),
        "include_stop_str_in_output": (False,),
        "length_penalty": (1,),
        "prompt_embeds": (),
        "prompt_logprobs": (),
        "skip_special_tokens": (True,),
        "structured_outputs": (),
        "suffix": ("",),
        "truncate_prompt_tokens": (),
        "use_beam_search": (False,),
    }
    ignored: ClassVar[Mapping[str, str]] = {
        "user": "it names the end user to OpenAI's abuse detection, which Corolla has not",
    }

    model: Annotated[str, Field(min_length=1, max_length=1000)]
    prompt: Annotated[RawTexts | None, described_as(str | Texts | TokenIds | TextsOfIds | None)] = None
    add_special_tokens: bool | None = None  # vLLM's: false for a text without the tokenizer's own first token
    echo: bool | None = None
    n: Annotated[int, Field(ge=1, le=CHOICES)] | None = None
    best_of: Annotated[int, Field(ge=1, le=CHOICES)] | None = None
    max_tokens: Annotated[int, Field(ge=0)] | None = None
    logprobs: Annotated[int, Field(ge=0, le=TOP_LIMIT)] | None = None  # OpenAI's limit is 5, other servers' 20
    stop: StopField = None
    response_format: FormatField = None  # vLLM's, as in chat completions
    guided_json: dict[str, Any] | None = None  # vLLM's older name for a schema
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    return_token_ids: bool | None = None  # vLLM's: the ids of prompt and completion beside their text
    return_tokens_as_token_ids: bool | None = None  # vLLM's: `token_id:5` in log probabilities, for 5's text

    @model_validator(mode="after")
    def _fields_agree(self) -> CompletionRequest:
        if self.stream_options is not None and not self.stream:
            raise InvalidRequest("stream_options is only allowed when stream is true", "stream_options")
        if self.guided_json is not None and self.response_format is not None and self.response_format.asked:
            raise InvalidRequest("guided_json: response_format says too what the answer is: send one", "guided_json")
        if self.token_limit == 0 and not self.echo:
            raise InvalidRequest("max_tokens: 0 is for a prompt that is echoed: send echo, or at least 1", "max_tokens")
        if self.candidates < self.given:
            raise InvalidRequest("best_of: it must not be less than n, which is how many are given back", "best_of")
        if self.candidates > self.given and self.stream:
            raise InvalidRequest("best_of: which is best is known at the end: ask without stream", "best_of")
        if len(self.texts) * self.candidates > CHOICES_LIMIT:
            reason = f"prompt: all prompts' completions together may be at most {CHOICES_LIMIT}: send fewer at a time"
            raise InvalidRequest(reason, "prompt")
        return self

    @property
    def texts(self) -> list[RawText]:
        """The prompts; without any, the beginning of a document."""
        return [""] if self.prompt is None else self.prompt

    @property
    def format(self) -> AnswerFormat:
        if self.guided_json is not None:
            return JsonSchema(self.guided_json, "guided_json")
        return None if self.response_format is None else self.response_format.asked

    @property
    def given(self) -> int:
        """How many completions of each prompt go out."""
        return self.n or 1

    @property
    def candidates(self) -> int:
        """How many are made of each, from which the best are given."""
        return self.given if self.best_of is None else self.best_of

    @property
    def token_limit(self) -> int:
        return DEFAULT_MAX_TOKENS if self.max_tokens is None else self.max_tokens

    @property
    def scores_prompt(self) -> bool:
        return bool(self.echo) and self.logprobs is not None

    @property
    def told_logprobs(self) -> int | None:
        """How many of the likeliest tokens the engine tells with each; the best are found by log probabilities too."""
        return 0 if self.logprobs is None and self.candidates > self.given else self.logprobs
