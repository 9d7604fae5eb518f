"""A response as it goes out: the object, whole or in progress, and the events of a stream, numbered."""

from __future__ import annotations

import time
from typing import Any

from gateway.api.errors import ErrorReply
from gateway.api.event_stream import NamedEvent
from gateway.api.reading import Tally
from gateway.api.responses.items import Item
from gateway.api.responses.request import ResponsesRequest
from gateway.api.responses.tools import Toolbox
from gateway.api.shapes import Shape, event_data
from gateway.generation.completion import ServedModel


class ResponseShapes:
    """What all states of one response have in common: what was asked for."""

    def __init__(self, id: str, model: ServedModel, asked: ResponsesRequest, tools: Toolbox, strict: bool) -> None:
        thinks = asked.thinking(model) is not None
        self._asked: Shape = {
            "id": id,
            "object": "response",
            "created_at": int(time.time()),
            "background": False,
            "instructions": asked.instructions,
            "max_output_tokens": asked.max_output_tokens,
            "max_tool_calls": asked.max_tool_calls,
            "metadata": asked.metadata or {},
            "model": asked.model,
            "parallel_tool_calls": asked.parallel_tool_calls is not False,
            "previous_response_id": asked.previous_response_id,
            "prompt_cache_key": asked.prompt_cache_key,
            "reasoning": {"effort": asked.reasoning.effort if asked.reasoning and thinks else None, "summary": None},
            "safety_identifier": asked.safety_identifier,
            "service_tier": "default",
            "store": asked.stored,
            "temperature": 1.0 if asked.temperature is None else asked.temperature,
            "text": asked.text.shape if asked.text else {"format": {"type": "text"}, "verbosity": "medium"},
            "tool_choice": tools.sent_choice,
            "tools": tools.shapes(strict),
            "top_logprobs": asked.top_logprobs or 0,
            "top_p": 1.0 if asked.top_p is None else asked.top_p,
            "truncation": asked.truncation or "disabled",
            "user": asked.user,
        }

    def in_progress(self) -> Shape:
        return self._shape("in_progress", [])

    def ended(self, output: list[Item], usage: Shape, cut: bool) -> Shape:
        """Whole, or `cut` at the limit of its tokens."""
        if cut:
            reason = {"reason": "max_output_tokens"}
            return self._shape("incomplete", output, usage=usage, incomplete_details=reason)
        return self._shape("completed", output, usage=usage, completed_at=int(time.time()))

    def failed(self, output: list[Item], usage: Shape, reply: ErrorReply) -> Shape:
        """Generation has failed midway. OpenAI's clients know few codes: the message says more."""
        code = "rate_limit_exceeded" if reply.status == 429 else "server_error"
        error = {"code": code, "message": reply.message}
        return self._shape("failed", output, usage=usage, error=error)

    def _shape(self, status: str, output: list[Item], **fields: Any) -> Shape:
        ends = {"completed_at": None, "error": None, "incomplete_details": None, "usage": None}
        return {**self._asked, "status": status, "output": output, **ends, **fields}


class Numbered:
    """Numbers the events of one stream."""

    def __init__(self) -> None:
        self._count = 0

    def event(self, shape: Shape) -> NamedEvent:
        """`shape` has the event's `type`, which is also its name."""
        numbered = {**shape, "sequence_number": self._count}
        self._count += 1
        return NamedEvent(shape["type"], event_data(numbered))

    def state(self, response: Shape, name: str | None = None) -> NamedEvent:
        """The event that tells of a response's state, by which it is named."""
        return self.event({"type": f"response.{name or response['status']}", "response": response})

    def error(self, reply: ErrorReply) -> NamedEvent:
        """As OpenAI describes it, and with the `error` that makes its clients raise."""
        told = {"code": reply.code, "message": reply.message, "param": reply.param}
        return self.event({"type": "error", **told, **reply.body})


def response_usage(input_tokens: int, tally: Tally) -> Shape:
    """OpenAI's `usage` of responses. No prompt is found in a cache, or kept in one."""
    return {
        "input_tokens": input_tokens,
        "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
        "output_tokens": tally.made,
        "output_tokens_details": {"reasoning_tokens": tally.reasoning},
        "total_tokens": input_tokens + tally.made,
    }
