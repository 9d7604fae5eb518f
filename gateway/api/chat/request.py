"""The body of a chat completion request, as OpenAI has it and as far as it is built."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, model_validator

from gateway.api.chat.format import FormatField
from gateway.api.chat.messages import MESSAGES, Message
from gateway.api.chat.tools import TOOLS, ToolChoiceField, ToolField, chosen_tools, offered_tools
from gateway.api.effort import Effort, effort_variables, with_effort
from gateway.api.logprobs import TOP_LIMIT
from gateway.api.request_model import RequestModel, Strict, described_as
from gateway.api.sampling_fields import SamplingFields, StopField
from gateway.api.schema.messages import MessageByRole
from gateway.conversation.ask import AnswerFormat, Ask, JsonSchema
from gateway.generation.completion import ServedModel
from shared.errors import InvalidRequest

CHOICES = 32


class StreamOptions(Strict):
    """What a stream tells beside the answer. `continuous_usage_stats` is vLLM's."""

    include_usage: bool | None = None
    continuous_usage_stats: Literal[False] | None = None


class ChatRequest(RequestModel, SamplingFields):
    """What is asked for. Null means the default, as it does at OpenAI."""

    refused: ClassVar[Mapping[str, tuple[object, ...]]] = {
        "add_generation_prompt": (True,),
        "add_special_tokens": (False,),
        "allowed_token_ids": ([],),
        "audio": (),
        "bad_words": ([],),
        "best_of": (1,),
        "chat_template": (),
        "continue_final_message": (False,),
        "documents": ([],),
        "echo": (False,),
        "function_call": ("none", "auto"),
        "functions": ([],),
        "guided_choice": (),
        "guided_grammar": (),
        "guided_regex": (),
        "include_reasoning": (True,),
        "include_stop_str_in_output": (False,),
        "length_penalty": (1,),
        "modalities": (["text"],),
        "moderation": (),
        "prompt_logprobs": (),
        "service_tier": ("auto", "default"),
        "skip_special_tokens": (True,),
        "structured_outputs": (),
        "truncate_prompt_tokens": (),
        "use_beam_search": (False,),
        "verbosity": ("medium",),
        "web_search_options": (),
    }
    ignored: ClassVar[Mapping[str, str]] = {
        "metadata": "nothing is stored, so there is nothing to find by it",
        "prediction": "it changes how fast an answer comes, not the answer",
        "prompt_cache_key": "no prompt is kept from one request to the next",
        "prompt_cache_options": "no prompt is kept from one request to the next",
        "prompt_cache_retention": "no prompt is kept from one request to the next",
        "safety_identifier": "the operator tells callers apart by their keys",
        "store": "chat completions are not stored, and there is no path that would read them",
        "user": "the operator tells callers apart by their keys",
    }
    replaced: ClassVar[Mapping[str, str]] = {
        "function_call": "tool_choice",
        "functions": "tools",
        "guided_choice": "response_format, with a schema that has an enum",
    }

    model: Annotated[str, Field(min_length=1, max_length=1000)]
    messages: Annotated[
        list[Message],
        Field(min_length=1, max_length=MESSAGES, fail_fast=True),  # the errors of all would be gigabytes
        described_as(Annotated[list[MessageByRole], Field(min_length=1, max_length=MESSAGES)]),
    ]
    n: Annotated[int, Field(ge=1, le=CHOICES)] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    stop: StopField = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=TOP_LIMIT)] | None = None
    tools: Annotated[list[ToolField], Field(max_length=TOOLS)] | None = None
    tool_choice: ToolChoiceField = None
    parallel_tool_calls: bool | None = None
    response_format: FormatField = None
    guided_json: dict[str, Any] | None = None  # vLLM's older name for a schema
    reasoning_effort: Effort | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    return_token_ids: bool | None = None  # vLLM's: the ids of prompt and answer beside their text

    @model_validator(mode="after")
    def _fields_agree(self) -> ChatRequest:
        if self.stream_options is not None and not self.stream:
            raise InvalidRequest("stream_options is only allowed when stream is true", "stream_options")
        if None not in (self.max_tokens, self.max_completion_tokens) and self.max_tokens != self.max_completion_tokens:
            raise InvalidRequest("max_tokens and max_completion_tokens differ: send one of them", "max_tokens")
        if self.top_logprobs and not self.logprobs:
            raise InvalidRequest("top_logprobs is only allowed when logprobs is true", "top_logprobs")
        if self.guided_json is not None and self.response_format is not None and self.response_format.type != "text":
            raise InvalidRequest("guided_json: response_format says too what the answer is: send one", "guided_json")
        return self

    @property
    def token_limit(self) -> int | None:
        return self.max_completion_tokens or self.max_tokens

    @property
    def include_usage(self) -> bool:
        """Whether a stream ends with the usage."""
        return self.stream_options is not None and bool(self.stream_options.include_usage)

    @property
    def told_logprobs(self) -> int | None:
        """How many of the likeliest tokens are told with each; None for no probabilities at all."""
        return (self.top_logprobs or 0) if self.logprobs else None

    def ask(self, model: ServedModel) -> Ask:
        """The conversation, and what its answer may be. Raises InvalidRequest."""
        tools, choice = chosen_tools(offered_tools(self.tools or ()), self.tool_choice)
        return Ask(
            messages=[message.for_template() for message in self.messages],
            tools=tools,
            tool_choice=choice,
            parallel_tool_calls=self.parallel_tool_calls is not False,
            format=self._format(),
            template_kwargs=self._template_kwargs(model),
        )

    def _format(self) -> AnswerFormat:
        if self.guided_json is not None:
            return JsonSchema(self.guided_json, "guided_json")
        return None if self.response_format is None else self.response_format.asked

    def _template_kwargs(self, model: ServedModel) -> dict[str, Any]:
        told = {} if self.reasoning_effort is None else effort_variables(model, self.reasoning_effort)
        if told is None:
            reason = "reasoning_effort: this model cannot be told how much to think, except 'none': leave it out"
            raise InvalidRequest(reason, "reasoning_effort", "unsupported_parameter")
        return with_effort(self.chat_template_kwargs or {}, told, "reasoning_effort")
