"""From what is asked of a response to the prompt: its tools said, and shortened where that is allowed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from gateway.api.responses.conversation import cuts, kept_from
from gateway.api.responses.request import ResponsesRequest
from gateway.api.responses.tools import Toolbox
from gateway.conversation.ask import Ask, ChatMessage
from gateway.conversation.prepared import Prepared, prepare, takes_bare_calls
from gateway.generation.completion import ServedModel
from shared.errors import InvalidRequest

ANSWER_TOKENS = 1024  # what a shortened conversation leaves for an answer whose length is not asked for


@dataclass(frozen=True, slots=True)
class Prompt:
    """`strict` is whether tools that leave it open keep to their schemas: where those can be kept to."""

    prepared: Prepared
    strict: bool


async def prompt_of(
    model: ServedModel, asked: ResponsesRequest, tools: Toolbox, messages: Sequence[ChatMessage]
) -> Prompt:
    """Raises InvalidRequest. With `truncation` auto, the oldest messages are left out until an answer fits."""
    tries = (True, False) if tools.leaves_open and not await takes_bare_calls(model) else (False,)
    for strict in tries:
        try:
            return Prompt(await _fitting(model, asked, tools, messages, strict), strict)
        except InvalidRequest as error:
            told = _by_our_fields(error)
            if strict is tries[-1] or not (told.param or "").startswith("tools"):
                raise told from error
    raise AssertionError("the last try returns or raises")


def _by_our_fields(error: InvalidRequest) -> InvalidRequest:
    """What is told of a conversation, told of this request's field."""
    if error.param != "messages":
        return error
    return InvalidRequest(str(error).replace("messages", "input", 1), "input", error.code)


async def _fitting(
    model: ServedModel, asked: ResponsesRequest, tools: Toolbox, messages: Sequence[ChatMessage], strict: bool
) -> Prepared:
    async def prepared(cut: int) -> Prepared:
        return await prepare(model, _ask(model, asked, tools, kept_from(messages, cut), strict))

    def fits(tried: Prepared) -> bool:
        return len(tried.prompt) + answer <= model.context_length

    places = cuts(messages)
    answer = min(asked.max_output_tokens or ANSWER_TOKENS, model.context_length // 2)
    whole = await prepared(places[0])
    if asked.truncation != "auto" or len(places) == 1 or fits(whole):
        return whole
    best = await prepared(places[-1])
    if not fits(best):  # nor does anything longer: looking would cost as much again at every place
        return best
    low, high = 1, len(places) - 2  # `best` fits, and what fits is perhaps longer from one of these on
    while low <= high:
        middle = (low + high) // 2
        tried = await prepared(places[middle])
        best, low, high = (tried, low, middle - 1) if fits(tried) else (best, middle + 1, high)
    return best


def _ask(
    model: ServedModel, asked: ResponsesRequest, tools: Toolbox, messages: Sequence[ChatMessage], strict: bool
) -> Ask:
    return Ask(
        messages,
        tools=tools.tools(strict),
        tool_choice=tools.choice,
        parallel_tool_calls=asked.parallel_tool_calls is not False,
        format=asked.text.answer_format if asked.text else None,
        template_kwargs=asked.template_kwargs(model),
    )
