"""Chat messages to token ids by the model's own template, and ids back to text. Runs no code from a checkpoint."""

from __future__ import annotations

import asyncio
import json
import re
import secrets
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path

import jinja2
from tokenizers import Tokenizer
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from shared.errors import CheckpointError, InvalidRequest

ChatMessage = Mapping[str, str]
"""`role`, `content` and perhaps `name`: what a chat template sees of a message."""


class TextTokenizer:
    """A model's tokenizer and chat template; `end_ids` are the tokens that end an answer."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast, end_ids: frozenset[int]) -> None:
        self.end_ids = end_ids
        self._template = tokenizer
        self._backend: Tokenizer = tokenizer.backend_tokenizer
        self._backend.no_truncation()  # a checkpoint's tokenizer may be set to cut prompts in silence
        self._backend.no_padding()
        special = [token.content for token in tokenizer.added_tokens_decoder.values() if token.special]
        self._special = re.compile("|".join(map(re.escape, sorted(special, key=len, reverse=True))) or r"(?!)")

    @classmethod
    def load(cls, directory: Path) -> TextTokenizer:
        """From a checkpoint's directory. Raises CheckpointError."""
        try:
            tokenizer = AutoTokenizer.from_pretrained(str(directory), local_files_only=True, trust_remote_code=False)
        except Exception as error:
            raise CheckpointError(f"the tokenizer in {directory} cannot be read: {error}") from error
        if not isinstance(tokenizer, PreTrainedTokenizerFast):
            raise CheckpointError(f"{directory} has no tokenizer.json, nor one that can be made from its files")
        return cls(tokenizer, _end_ids(directory) | _ids(tokenizer.eos_token_id))

    async def encode_chat(self, messages: Sequence[ChatMessage]) -> list[int]:
        """Ids of the whole prompt, up to where the assistant's answer begins. Raises InvalidRequest."""
        if self._template.chat_template is None:
            raise InvalidRequest(
                "this model has no chat template, so it cannot answer chat messages", "messages", "no_chat_template"
            )
        return await asyncio.to_thread(self._encode_chat, messages)

    def decode(self, ids: Sequence[int]) -> str:
        """Text without special tokens; bytes that are no UTF-8 become U+FFFD."""
        return self._backend.decode(list(ids), skip_special_tokens=True)

    def _encode_chat(self, messages: Sequence[ChatMessage]) -> list[int]:
        """Special tokens come from the template alone: those that a user has typed are encoded as ordinary text.

        A mark that nobody can guess stands for them while the template is applied. Without any, the usual case, the
        ids are exactly those of `apply_chat_template`.
        """
        mark = f"\ue000{secrets.token_hex(8)}\ue001"
        typed: list[str] = []

        def hide(match: re.Match[str]) -> str:
            typed.append(match[0])
            return f"{mark}{len(typed) - 1}{mark}"

        text = self._render([{field: self._special.sub(hide, value) for field, value in m.items()} for m in messages])
        if not typed:
            return _encode(self._backend, text)
        ids: list[int] = []
        for place, part in enumerate(re.split(f"{mark}([0-9]+){mark}", text)):
            hidden = place % 2 == 1  # what the pattern's group has matched
            ids += _encode(self._literal, typed[int(part)]) if hidden else _encode(self._backend, part)
        return ids

    @cached_property
    def _literal(self) -> Tokenizer:
        """The same tokenizer, to which special tokens are ordinary text."""
        literal = Tokenizer.from_str(self._backend.to_str())
        literal.encode_special_tokens = True
        return literal

    def _render(self, messages: list[dict[str, str]]) -> str:
        try:
            text = self._template.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
        except (jinja2.TemplateError, TypeError, ValueError, KeyError) as error:  # a template is a foreign program
            reason = f"the model's chat template does not take these messages: {str(error)[:300]}"
            raise InvalidRequest(reason, "messages", "chat_template_error") from error
        assert isinstance(text, str)
        return text


def _encode(backend: Tokenizer, text: str) -> list[int]:
    """Ids of a text; `encode_batch_fast` frees other threads meanwhile, which `encode` does not."""
    return backend.encode_batch_fast([text], add_special_tokens=False)[0].ids


def _end_ids(directory: Path) -> frozenset[int]:
    """End tokens as the checkpoint's generation_config.json has them, or, without one, its config.json."""
    for name in ("generation_config.json", "config.json"):
        try:
            config = json.loads((directory / name).read_bytes())
        except FileNotFoundError:
            continue
        except (OSError, ValueError) as error:
            raise CheckpointError(f"{directory / name} cannot be read: {error}") from error
        if isinstance(config, dict) and (ends := _ids(config.get("eos_token_id"))):
            return ends
    return frozenset()


def _ids(value: object) -> frozenset[int]:
    """An id, a list of them, or nothing, as checkpoints write it."""
    values = value if isinstance(value, list) else [value]
    return frozenset(item for item in values if isinstance(item, int))
