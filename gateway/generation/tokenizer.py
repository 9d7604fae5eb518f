"""Chat messages to token ids by the model's own template, and ids back to text. Runs no code from a checkpoint."""

from __future__ import annotations

import asyncio
import json
import re
import secrets
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import jinja2
from tokenizers import Tokenizer
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from gateway.generation.token_bytes import TokenBytes
from shared.errors import CheckpointError, InvalidRequest

ChatMessage = Mapping[str, Any]
"""What a chat template sees of a message: `role`, `content` and whatever else the model's template knows. JSON."""


class TextTokenizer:
    """A model's tokenizer and chat template; `end_ids` are the tokens that end an answer."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast, end_ids: frozenset[int]) -> None:
        self.end_ids = end_ids
        self._template = tokenizer
        self._backend: Tokenizer = tokenizer.backend_tokenizer
        self._backend.no_truncation()  # a checkpoint's tokenizer may be set to cut prompts in silence
        self._backend.no_padding()
        special = [token.content for token in tokenizer.added_tokens_decoder.values() if token.special]
        self.special_ids = frozenset(id for id, token in tokenizer.added_tokens_decoder.items() if token.special)
        self._token_bytes = TokenBytes(self._backend)
        self._vocab_size = max(self._backend.get_vocab().values(), default=-1) + 1
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

    async def encode_chat(
        self,
        messages: Sequence[ChatMessage],
        tools: Sequence[Mapping[str, Any]] | None = None,
        variables: Mapping[str, Any] | None = None,
    ) -> list[int]:
        """Ids of the whole prompt, up to where the assistant's answer begins. Raises InvalidRequest.

        `tools` and other `variables` are what the template sees beside the messages, all of it JSON.
        """
        if self._template.chat_template is None:
            raise InvalidRequest(
                "this model has no chat template, so it cannot answer chat messages", "messages", "no_chat_template"
            )
        return await asyncio.to_thread(self._encode_chat, messages, tools, variables or {})

    def render_chat(
        self,
        messages: Sequence[ChatMessage],
        tools: Sequence[Mapping[str, Any]] | None = None,
        variables: Mapping[str, Any] | None = None,
    ) -> str:
        """What the template makes of a conversation, with special tokens as text. Raises InvalidRequest."""
        return self._render(list(messages), None if tools is None else list(tools), variables or {})

    def chat_template(self, with_tools: bool) -> str:
        """The template's text, empty where there is none; some models have another one for tools."""
        try:
            return self._template.get_chat_template(tools=[] if with_tools else None)
        except ValueError:
            return ""

    def token_id(self, text: str) -> int | None:
        """The id of the token whose name this is, None if the model has no such token."""
        return self._backend.token_to_id(text)

    async def encode_text(self, text: str, special: bool = True) -> list[int]:
        """Ids of a text as it is: special tokens in it are special.

        With `special`, those that this tokenizer puts around a text (often one that begins it) are added.
        """
        return await asyncio.to_thread(_encode, self._backend, text, special)

    @property
    def backend(self) -> Tokenizer:
        """The tokenizer beneath, not to be changed."""
        return self._backend

    @property
    def vocab_size(self) -> int:
        """All ids are below."""
        return self._vocab_size

    def token_text(self, token: int) -> str:
        """One token's text, with U+FFFD for bytes that are not whole characters; a special token's name."""
        return self.token_bytes(token).decode("utf-8", errors="replace")

    def token_bytes(self, token: int) -> bytes:
        """What a token adds to a text in UTF-8; a special token's name; nothing for an id that is no token."""
        return self._token_bytes(token)

    def decode(self, ids: Sequence[int], shown: frozenset[int] = frozenset()) -> str:
        """Text without special tokens, but for those `shown`; bytes that are no UTF-8 become U+FFFD."""
        if not shown:
            return self._backend.decode(list(ids), skip_special_tokens=True)
        kept = [each for each in ids if each in shown or each not in self.special_ids]
        return self._backend.decode(kept, skip_special_tokens=False)

    def _encode_chat(
        self,
        messages: Sequence[ChatMessage],
        tools: Sequence[Mapping[str, Any]] | None,
        variables: Mapping[str, Any],
    ) -> list[int]:
        """Special tokens come from the template alone: those that a user has typed are encoded as ordinary text.

        A mark that nobody can guess stands for them while the template is applied; of letters and digits, so that no
        quoting in the template changes it. Without any, the usual case, the ids are exactly those of
        `apply_chat_template`.
        """
        mark = f"x{secrets.token_hex(8)}x"
        typed: list[str] = []

        def hide(match: re.Match[str]) -> str:
            typed.append(match[0])
            return f"{mark}{len(typed) - 1}{mark}"

        hidden = partial(_substituted, self._special, hide)
        text = self._render(
            [{field: hidden(value) for field, value in message.items()} for message in messages],
            None if tools is None else [hidden(tool) for tool in tools],
            hidden(variables),
        )
        if not typed:
            return _encode(self._backend, text)
        ids: list[int] = []
        for place, part in enumerate(re.split(f"{mark}([0-9]+){mark}", text)):
            is_hidden = place % 2 == 1  # what the pattern's group has matched
            ids += _encode(self._literal, typed[int(part)]) if is_hidden else _encode(self._backend, part)
        return ids

    @cached_property
    def _literal(self) -> Tokenizer:
        """The same tokenizer, to which special tokens are ordinary text."""
        literal = Tokenizer.from_str(self._backend.to_str())
        literal.encode_special_tokens = True
        return literal

    def _render(
        self, messages: list[ChatMessage], tools: list[Mapping[str, Any]] | None, variables: Mapping[str, Any]
    ) -> str:
        try:
            text = self._template.apply_chat_template(
                messages,  # pyright: ignore[reportArgumentType]  it reads them as mappings
                tools=tools,  # pyright: ignore[reportArgumentType]
                add_generation_prompt=True,
                tokenize=False,
                **variables,
            )
        except _TEMPLATE_ERRORS as error:
            reason = f"the model's chat template does not take these messages: {str(error)[:300]}"
            raise InvalidRequest(reason, "messages", "chat_template_error") from error
        assert isinstance(text, str)
        return text


# A template is a foreign program: these are what its expressions raise over data that it does not expect.
_TEMPLATE_ERRORS = (
    jinja2.TemplateError,
    TypeError,
    ValueError,
    LookupError,
    AttributeError,
    ArithmeticError,
    RecursionError,
)


def _substituted(pattern: re.Pattern[str], replace: Callable[[re.Match[str]], str], value: Any) -> Any:
    """JSON, with the matches replaced in every string of it: names of fields as well."""
    if isinstance(value, str):
        return pattern.sub(replace, value)
    again = partial(_substituted, pattern, replace)
    if isinstance(value, Mapping):
        return {again(key): again(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [again(item) for item in value]
    return value


def _encode(backend: Tokenizer, text: str, special: bool = False) -> list[int]:
    """Ids of a text; `encode_batch_fast` frees other threads meanwhile, which `encode` does not."""
    return backend.encode_batch_fast([text], add_special_tokens=special)[0].ids


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
