"""Chat completions as they go out: the object, and the chunks of a stream in the order that clients depend on."""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Sequence
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
    """What one answer's object or chunks share. The role comes once; `usage`, if asked for, in a chunk of its own.

    With `include_ids` they have token ids as vLLM's have: `prompt_token_ids` once, each choice its `token_ids`.
    """

    def __init__(self, model: str, prompt: Sequence[int], include_usage: bool, include_ids: bool) -> None:
        self._head = {"id": f"chatcmpl-{secrets.token_hex(16)}", "created": int(time.time()), "model": model}
        self._prompt = prompt
        self._include_usage = include_usage
        self._include_ids = include_ids

    def completion(self, pieces: Sequence[Piece]) -> Shape:
        """The whole answer as one object."""
        text, ids = "".join(piece.text for piece in pieces), [token for piece in pieces for token in piece.ids]
        message = {"role": "assistant", "content": text, "refusal": None, "annotations": []}
        choice = self._choice({"message": message}, pieces[-1].finish, ids)
        spent = usage(len(self._prompt), pieces[-1].tokens)
        return self._shape("chat.completion", choices=[choice], usage=spent, **self._prompt_ids())

    def first(self) -> Shape:
        return {**self._chunk({"role": "assistant", "content": "", "refusal": None}), **self._prompt_ids()}

    def after(self, piece: Piece) -> list[Shape]:
        """The chunks that a piece makes: its text, and with the last piece the finish reason and the usage."""
        chunks = [self._chunk({"content": piece.text}, ids=piece.ids)] if piece.text else []
        if piece.finish:
            chunks.append(self._chunk({}, piece.finish, () if piece.text else piece.ids))
            if self._include_usage:
                spent = usage(len(self._prompt), piece.tokens)
                chunks.append(self._shape("chat.completion.chunk", choices=[], usage=spent))
        return chunks

    def _chunk(self, delta: Shape, finish: str | None = None, ids: Sequence[int] = ()) -> Shape:
        choice = self._choice({"delta": delta}, finish, ids)
        absent = {"usage": None} if self._include_usage else {}
        return self._shape("chat.completion.chunk", choices=[choice], **absent)

    def _choice(self, said: Shape, finish: str | None, ids: Sequence[int]) -> Shape:
        made = {"token_ids": list(ids)} if self._include_ids else {}
        return {"index": 0, **said, "logprobs": None, "finish_reason": finish, **made}

    def _prompt_ids(self) -> Shape:
        return {"prompt_token_ids": list(self._prompt)} if self._include_ids else {}

    def _shape(self, kind: str, **fields: Any) -> Shape:
        return {**self._head, "object": kind, "service_tier": "default", "system_fingerprint": None, **fields}


def event_data(shape: Shape) -> str:
    """One line of JSON. Line breaks that only Unicode knows are escaped: many clients split there too."""
    text = json.dumps(shape, ensure_ascii=False, separators=(",", ":"))
    return text.replace("\u2028", "\\u2028").replace("\u2029", "\\u2029").replace("\x85", "\\u0085")
