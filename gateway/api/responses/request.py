"""The body of `POST /v1/responses`, as OpenAI has it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, Field, model_validator

from gateway.api.chat.tools import TOOLS, ToolName
from gateway.api.effort import Effort, effort_variables, with_effort
from gateway.api.logprobs import TOP_LIMIT
from gateway.api.request_model import RequestModel, Strict, described_as
from gateway.api.responses.items import ID_CHARACTERS, ITEMS, text_message
from gateway.api.sampling_fields import SamplingFields
from gateway.api.schema.input_items import WrittenChoice, WrittenFormat, WrittenInput, WrittenTools
from gateway.conversation.ask import AnswerFormat, JsonObject, JsonSchema
from gateway.generation.completion import ServedModel

LOGPROBS, ENCRYPTED_REASONING = "message.output_text.logprobs", "reasoning.encrypted_content"
LABEL_CHARACTERS = 512
INCLUDED = 16

Label = Annotated[str, Field(max_length=LABEL_CHARACTERS)]
MetadataKey = Annotated[str, Field(max_length=64)]
METADATA = 16
Included = Annotated[
    list[Literal["message.output_text.logprobs", "reasoning.encrypted_content"]], Field(max_length=INCLUDED)
]


def _counted(metadata: object) -> object:
    """Before each is looked at: pydantic would write out the error of each of a million."""
    if isinstance(metadata, dict) and len(metadata) > METADATA:
        raise ValueError(f"may hold at most {METADATA} keys, not {len(metadata)}")
    return metadata


WrittenMetadata = Annotated[dict[MetadataKey, Label], Field(max_length=METADATA)]
Metadata = Annotated[WrittenMetadata, BeforeValidator(_counted, json_schema_input_type=WrittenMetadata)]


def _listed(given: object) -> object:
    return [text_message(given)] if isinstance(given, str) else given


Input = Annotated[
    list[dict[str, Any]],
    Field(max_length=ITEMS, fail_fast=True),
    BeforeValidator(_listed, json_schema_input_type=WrittenInput),
]
Tools = Annotated[list[dict[str, Any]], Field(max_length=TOOLS)]


def _word_or_object(choice: object) -> object:
    if not isinstance(choice, str | dict | None):
        raise ValueError("must be 'auto', 'none', 'required' or an object")
    return choice


Choice = Annotated[
    str | dict[str, Any] | None, BeforeValidator(_word_or_object, json_schema_input_type=WrittenChoice | None)
]


class TextFormat(Strict):
    """What the answer's text has to be. JSON always keeps to its schema, `strict` or not."""

    type: Literal["text", "json_object", "json_schema"]
    name: ToolName | None = None
    description: str | None = None
    schema_: Annotated[dict[str, Any] | None, Field(alias="schema")] = None
    strict: bool | None = None

    @model_validator(mode="after")
    def _whole(self) -> TextFormat:
        if self.type == "json_schema" and None in (self.name, self.schema_):
            raise ValueError("a format of type 'json_schema' must have a name and a schema")
        return self


class TextConfig(Strict):
    format: Annotated[TextFormat | None, described_as(WrittenFormat | None)] = None

    @property
    def answer_format(self) -> AnswerFormat:
        if self.format is None or self.format.type == "text":
            return None
        if self.format.type == "json_object" or self.format.schema_ is None:
            return JsonObject()
        return JsonSchema(self.format.schema_, "text.format.schema")

    @property
    def shape(self) -> dict[str, Any]:
        """As the answer says it."""
        if self.answer_format is None or self.format is None:
            return {"format": {"type": "text"}, "verbosity": "medium"}
        return {"format": self.format.model_dump(by_alias=True, exclude_none=True), "verbosity": "medium"}


class ReasoningConfig(Strict):
    effort: Effort | None = None


class ResponsesRequest(RequestModel, SamplingFields):
    """What is asked for. Null means the default, as it does at OpenAI.

    `user`, `safety_identifier`, `prompt_cache_key` and `max_tool_calls` are given back, and change nothing: there are
    no built-in tools whose calls could be counted.
    """

    refused: ClassVar[Mapping[str, tuple[object, ...]]] = {
        "access_programs": ({"cyber": "standard"},),
        "background": (False,),
        "context_management": ([],),
        "conversation": (),
        "function_call": (),
        "functions": ([],),
        "logprobs": (False,),
        "max_completion_tokens": (),
        "max_tokens": (),
        "messages": (),
        "moderation": (),
        "n": (1,),
        "prompt": (),
        "prompt_cache_options.prewarm": (False,),
        "reasoning.context": ("auto",),
        "reasoning.mode": ("standard",),
        "reasoning_effort": (),
        "response_format": (),
        "service_tier": ("auto", "default"),
        "stop": ([],),
        "text.verbosity": ("medium",),
    }
    replaced: ClassVar[Mapping[str, str]] = {
        "functions": "tools",
        "function_call": "tool_choice",
        "logprobs": "top_logprobs",
        "max_completion_tokens": "max_output_tokens",
        "max_tokens": "max_output_tokens",
        "messages": "input",
        "reasoning_effort": "reasoning.effort",
        "response_format": "text.format",
    }
    ignored: ClassVar[Mapping[str, str]] = {
        "image": "input images are refused, so there is none to compress",
        "prompt_cache_options": "no prompt is cached for another request",
        "prompt_cache_retention": "no prompt is cached for another request",
        "reasoning.effort": "where a model cannot be told it, since agents send it to all: the answer then says null",
        "reasoning.generate_summary": "as reasoning.summary",
        "reasoning.summary": "the answer holds the reasoning itself, as reasoning_text: no summary of it is written",
        "stream_options": "its one field asks to leave out what is never sent: events have no obfuscation",
    }

    model: Annotated[str, Field(min_length=1, max_length=1000)]
    input: Input
    instructions: str | None = None
    previous_response_id: Annotated[str, Field(max_length=ID_CHARACTERS)] | None = None
    store: bool | None = None
    stream: bool | None = None
    tools: Annotated[Tools | None, described_as(WrittenTools | None)] = None
    tool_choice: Choice = None
    parallel_tool_calls: bool | None = None
    max_tool_calls: Annotated[int, Field(ge=1)] | None = None
    text: TextConfig | None = None
    reasoning: ReasoningConfig | None = None
    chat_template_kwargs: dict[str, Any] | None = None  # as other servers have it
    include: Included | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=TOP_LIMIT)] | None = None
    max_output_tokens: Annotated[int, Field(ge=1)] | None = None
    truncation: Literal["auto", "disabled"] | None = None
    metadata: Metadata | None = None
    user: Label | None = None
    safety_identifier: Label | None = None
    prompt_cache_key: Label | None = None

    @property
    def stored(self) -> bool:
        """Whether it is kept, so that it can be had again and continued."""
        return self.store is not False

    def thinking(self, model: ServedModel) -> dict[str, Any] | None:
        """What the model's template is told of the effort asked for; None where none is, or none can be told."""
        effort = self.reasoning.effort if self.reasoning else None
        return None if effort is None else effort_variables(model, effort)

    def template_kwargs(self, model: ServedModel) -> dict[str, Any]:
        """What the model's chat template is told beside the conversation. Raises InvalidRequest."""
        return with_effort(self.chat_template_kwargs or {}, self.thinking(model) or {}, "reasoning.effort")

    @property
    def wanted_logprobs(self) -> int | None:
        """How many of the likeliest tokens are told with each token; None where nothing is told of tokens."""
        if LOGPROBS in (self.include or ()) or self.top_logprobs:
            return self.top_logprobs or 0
        return None
