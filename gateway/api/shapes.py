"""What the objects and chunks of all endpoints have in common as they go out."""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import AsyncIterator
from typing import Any

from gateway.api.answering import Opening
from gateway.api.errors import reply_to

Shape = dict[str, Any]


class Head:
    """What the object, or all chunks, of one answer share: an id, the time, the model, and what computes it."""

    def __init__(self, prefix: str, model: str, opening: Opening) -> None:
        self._shared: Shape = {"id": f"{prefix}{secrets.token_hex(16)}", "created": int(time.time()), "model": model}
        self._opening = opening

    def shape(self, kind: str, **fields: Any) -> Shape:
        """`fields`, in an object of that kind."""
        return {**self._shared, "object": kind, "system_fingerprint": self._opening.fingerprint, **fields}


def usage(prompt_tokens: int, completion_tokens: int, reasoning_tokens: int = 0) -> Shape:
    """OpenAI's `usage`, with its details. No prompt is found in a cache, and nothing is predicted."""
    return {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": completion_tokens,
        "total_tokens": prompt_tokens + completion_tokens,
        "prompt_tokens_details": {"cached_tokens": 0, "audio_tokens": 0},
        "completion_tokens_details": {
            "reasoning_tokens": reasoning_tokens,
            "audio_tokens": 0,
            "accepted_prediction_tokens": 0,
            "rejected_prediction_tokens": 0,
        },
    }


def event_data(shape: Shape) -> str:
    """One line of JSON. Line breaks that only Unicode knows are escaped: many clients split there too."""
    text = json.dumps(shape, ensure_ascii=False, separators=(",", ":"))
    return text.replace("\u2028", "\\u2028").replace("\u2029", "\\u2029").replace("\x85", "\\u0085")


async def until_done(chunks: AsyncIterator[Shape]) -> AsyncIterator[str]:
    """A stream's data: its chunks and `[DONE]`, or, when generation fails midway, an error instead of the rest."""
    try:
        async for chunk in chunks:
            yield event_data(chunk)
    except Exception as error:  # noqa: BLE001  the status is sent: this event is the one way left to tell
        yield error_data(error)
        return
    yield "[DONE]"


def error_data(error: Exception) -> str:
    """The event that tells of an error in the middle of a stream."""
    return event_data(reply_to(error).body)
