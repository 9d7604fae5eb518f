"""Chat completions as they go out: the object, and the chunks of a stream in the order that clients depend on."""

from __future__ import annotations

import json
import secrets
import time
from typing import Any

from gateway.generation.completion import Piece

Shape = dict[str, Any]


def usage(prompt_tokens: int, completion_tokens: int) -> Shape:
    return {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": completion_tokens,
        "total_tokens": prompt_tokens + completion_tokens,
    }


class ChatShapes:
    """What one answer's object or chunks share. The role comes once; `usage`, if asked for, in a chunk of its own."""

    def __init__(self, model: str, prompt_tokens: int, include_usage: bool) -> None:
        self._head = {"id": f"chatcmpl-{secrets.token_hex(16)}", "created": int(time.time()), "model": model}
        self._prompt_tokens = prompt_tokens
        self._include_usage = include_usage

    def completion(self, text: str, last: Piece) -> Shape:
        """The whole answer as one object."""
        message = {"role": "assistant", "content": text, "refusal": None, "annotations": []}
        choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": last.finish}
        spent = usage(self._prompt_tokens, last.tokens)
        return self._shape("chat.completion", choices=[choice], usage=spent)

    def first(self) -> Shape:
        return self._chunk({"role": "assistant", "content": "", "refusal": None})

    def after(self, piece: Piece) -> list[Shape]:
        """The chunks that a piece makes: its text, and with the last piece the finish reason and the usage."""
        chunks = [self._chunk({"content": piece.text})] if piece.text else []
        if piece.finish:
            chunks.append(self._chunk({}, piece.finish))
            if self._include_usage:
                spent = usage(self._prompt_tokens, piece.tokens)
                chunks.append(self._shape("chat.completion.chunk", choices=[], usage=spent))
        return chunks

    def _chunk(self, delta: Shape, finish: str | None = None) -> Shape:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
        absent = {"usage": None} if self._include_usage else {}
        return self._shape("chat.completion.chunk", choices=[choice], **absent)

    def _shape(self, kind: str, **fields: Any) -> Shape:
        return {**self._head, "object": kind, "service_tier": "default", "system_fingerprint": None, **fields}


def event_data(shape: Shape) -> str:
    """One line of JSON. Line breaks that only Unicode knows are escaped: many clients split there too."""
    text = json.dumps(shape, ensure_ascii=False, separators=(",", ":"))
    return text.replace("\u2028", "\\u2028").replace("\u2029", "\\u2029").replace("\x85", "\\u0085")
