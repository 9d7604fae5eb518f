"""Replies of `/v1/responses`: the object, its items, and the events of a stream."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, RootModel

from gateway.api.effort import Effort
from gateway.api.schema.chat import ChatTokenLogprobs
from gateway.api.schema.reply import ErrorDetail, Reply

ItemStatus = Literal["in_progress", "completed", "incomplete"]


class OutputText(Reply):
    type: Literal["output_text"]
    text: str
    annotations: list[dict[str, Any]] = Field(max_length=0)
    logprobs: list[ChatTokenLogprobs] | None = None


class OutputMessage(Reply):
    """What the model says."""

    type: Literal["message"]
    id: str
    role: Literal["assistant"]
    status: ItemStatus
    content: list[OutputText]


class FunctionCall(Reply):
    """A call of a function tool; the answer to it comes as `function_call_output`, with its `call_id`."""

    type: Literal["function_call"]
    id: str
    call_id: str
    name: str
    arguments: str = Field(description="A JSON text.")
    status: ItemStatus


class ReasoningText(Reply):
    type: Literal["reasoning_text"]
    text: str


class SummaryText(Reply):
    type: Literal["summary_text"]
    text: str


class ReasoningItem(Reply):
    """What a reasoning model thinks before it answers. Only what a client has sent has a summary."""

    type: Literal["reasoning"]
    id: str
    summary: list[SummaryText]
    content: list[ReasoningText] | None = None
    encrypted_content: str | None = None
    status: ItemStatus


OutputItem = Annotated[OutputMessage | FunctionCall | ReasoningItem, Field(discriminator="type")]


class InputText(Reply):
    type: Literal["input_text"]
    text: str


class Refusal(Reply):
    type: Literal["refusal"]
    refusal: str


class ListedMessage(Reply):
    """A message of a client, or of the model in an earlier turn."""

    type: Literal["message"]
    id: str
    role: Literal["system", "developer", "user", "assistant"]
    status: ItemStatus
    content: list[Annotated[InputText | OutputText | Refusal, Field(discriminator="type")]]


class FunctionCallOutput(Reply):
    """What a function has given back."""

    type: Literal["function_call_output"]
    id: str
    call_id: str
    output: str | list[InputText]
    status: ItemStatus


ListedItem = Annotated[ListedMessage | FunctionCall | FunctionCallOutput | ReasoningItem, Field(discriminator="type")]


class InputTokensDetails(Reply):
    cached_tokens: int
    cache_write_tokens: int


class OutputTokensDetails(Reply):
    reasoning_tokens: int


class ResponseUsage(Reply):
    input_tokens: int
    input_tokens_details: InputTokensDetails
    output_tokens: int
    output_tokens_details: OutputTokensDetails
    total_tokens: int


class IncompleteDetails(Reply):
    reason: Literal["max_output_tokens"]


class ResponseFailure(Reply):
    code: str
    message: str


class ResponseReasoning(Reply):
    effort: Effort | None = Field(description="Null where the model cannot be told it.")
    summary: None


class ResponseFormatReply(Reply):
    """As it was sent."""

    type: Literal["text", "json_object", "json_schema"]
    name: str | None = None
    description: str | None = None
    schema_: dict[str, Any] | None = Field(default=None, alias="schema")
    strict: bool | None = None


class ResponseText(Reply):
    format: ResponseFormatReply
    verbosity: Literal["medium"]


class ResponseTool(Reply):
    """A function; tools of other types are ignored, and not given back."""

    type: Literal["function"]
    name: str
    description: str | None
    parameters: dict[str, Any] | None
    strict: bool = Field(description="Whether arguments keep to the schema.")


class ResponseReply(Reply):
    """An answer, with what was asked for."""

    id: str
    object: Literal["response"]
    created_at: int
    completed_at: int | None
    status: Literal["in_progress", "completed", "incomplete", "failed"]
    background: Literal[False]
    error: ResponseFailure | None
    incomplete_details: IncompleteDetails | None
    instructions: str | None
    max_output_tokens: int | None
    max_tool_calls: int | None
    metadata: dict[str, str]
    model: str
    output: list[OutputItem]
    parallel_tool_calls: bool
    previous_response_id: str | None
    prompt_cache_key: str | None
    reasoning: ResponseReasoning
    safety_identifier: str | None
    service_tier: Literal["default"]
    store: bool
    temperature: float
    text: ResponseText
    tool_choice: str | dict[str, Any] = Field(description="As it was sent.")
    tools: list[ResponseTool]
    top_logprobs: int
    top_p: float
    truncation: Literal["auto", "disabled"]
    usage: ResponseUsage | None
    user: str | None


class ItemListReply(Reply):
    """The input items of a stored response, a page at a time."""

    object: Literal["list"]
    data: list[ListedItem]
    first_id: str | None
    last_id: str | None
    has_more: bool


class Numbered(Reply):
    sequence_number: int = Field(description="Of the stream's events, from 0.")


class ResponseStateEvent(Numbered):
    """The response begins, or ends."""

    type: Literal[
        "response.created", "response.in_progress", "response.completed", "response.incomplete", "response.failed"
    ]
    response: ResponseReply


class OutputItemEvent(Numbered):
    type: Literal["response.output_item.added", "response.output_item.done"]
    output_index: int
    item: OutputItem


class OfItem(Numbered):
    item_id: str
    output_index: int


class OfPart(OfItem):
    content_index: int


class ContentPartEvent(OfPart):
    type: Literal["response.content_part.added", "response.content_part.done"]
    part: Annotated[OutputText | ReasoningText, Field(discriminator="type")]


class OutputTextDeltaEvent(OfPart):
    type: Literal["response.output_text.delta"]
    delta: str
    logprobs: list[ChatTokenLogprobs]


class OutputTextDoneEvent(OfPart):
    type: Literal["response.output_text.done"]
    text: str
    logprobs: list[ChatTokenLogprobs]


class ReasoningTextDeltaEvent(OfPart):
    type: Literal["response.reasoning_text.delta"]
    delta: str


class ReasoningTextDoneEvent(OfPart):
    type: Literal["response.reasoning_text.done"]
    text: str


class ArgumentsDeltaEvent(OfItem):
    type: Literal["response.function_call_arguments.delta"]
    delta: str


class ArgumentsDoneEvent(OfItem):
    type: Literal["response.function_call_arguments.done"]
    name: str
    arguments: str


class ErrorEvent(Numbered):
    """Generation has failed midway; it follows `response.failed`, and is the last."""

    type: Literal["error"]
    code: str | None
    message: str
    param: str | None
    error: ErrorDetail


AnyEvent = (
    ResponseStateEvent
    | OutputItemEvent
    | ContentPartEvent
    | OutputTextDeltaEvent
    | OutputTextDoneEvent
    | ReasoningTextDeltaEvent
    | ReasoningTextDoneEvent
    | ArgumentsDeltaEvent
    | ArgumentsDoneEvent
    | ErrorEvent
)


class ResponseEvent(RootModel[Annotated[AnyEvent, Field(discriminator="type")]]):
    """The data of one event, whose name is its `type`."""
