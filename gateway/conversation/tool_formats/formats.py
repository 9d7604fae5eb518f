"""The ways in which models write calls of tools."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ToolFormat:
    """Calls are JSON objects after `opener`, and then `closer`; what a model without tools of its own is taught, too.

    Without an `opener` (or beside it, if `bare`), what begins a line of the answer is one by its form. Several stand in
    a list if it is `listed`, else after one another, with `separator` between them within one opener. The arguments'
    field is `arguments`. With `named` a call is `name[ARGS]{…}` instead of an object. `ends` are tokens that end calls.
    `marks` are other tokens in them. `tokens` may be special tokens of the model, which the reader wants to see.
    """

    name: str
    opener: str = ""
    closer: str = ""
    bare: bool = False
    listed: bool = False
    separator: str = ""
    arguments: str = "arguments"
    named: bool = False
    ends: tuple[str, ...] = ()
    marks: tuple[str, ...] = ()

    @property
    def tokens(self) -> tuple[str, ...]:
        return tuple(mark for mark in (self.opener, self.closer, *self.marks) if mark)


HERMES = ToolFormat("hermes", "<tool_call>", "</tool_call>")
"""`<tool_call>{"name": …, "arguments": {…}}</tool_call>`: Hermes, Qwen, and many that follow them."""

LLAMA3 = ToolFormat(
    "llama3", "<|python_tag|>", bare=True, separator="; ", arguments="parameters", ends=("<|eom_id|>", "<|eot_id|>")
)
"""`{"name": …, "parameters": {…}}`, perhaps after `<|python_tag|>`, several separated by `;`."""

MISTRAL = ToolFormat("mistral", "[TOOL_CALLS]", listed=True, marks=("[ARGS]", "[CALL_ID]"))
"""`[TOOL_CALLS][{"name": …, "arguments": {…}}]`: Mistral's tokenizers up to v7."""

MISTRAL_NAMED = ToolFormat("mistral_named", "[TOOL_CALLS]", named=True, marks=("[ARGS]", "[CALL_ID]"))
"""`[TOOL_CALLS]name[ARGS]{…}`: Mistral's tokenizers from v11 on."""

GENERIC = ToolFormat("generic", bare=True, listed=True)
"""`{"name": …, "arguments": {…}}`, or a list of such."""

HARMONY = ToolFormat(
    "harmony",
    ends=("<|call|>", "<|return|>"),
    marks=("<|start|>", "<|channel|>", "<|constrain|>", "<|message|>", "<|end|>"),
)
"""gpt-oss's, of whole answers: see harmony.py."""

FORMATS = {each.name: each for each in (HERMES, LLAMA3, MISTRAL, MISTRAL_NAMED, GENERIC)}


_UNREAD = (("<function=", "<parameter="), ("<arg_key>", "<arg_value>"))  # Qwen3-Coder; GLM 4.5


def is_read(template: str) -> bool:
    """Is there a format here for the calls that a chat template gives? Some have their arguments in XML."""
    return not any(all(mark in template for mark in marks) for marks in _UNREAD)


def format_of(template: str) -> ToolFormat:
    """The format that a chat template, which shows tools, gives past calls in. A known mark in its text decides."""
    if all(mark in template for mark in ("<|channel|>", "<|message|>")):
        return HARMONY
    if "[TOOL_CALLS]" in template:
        return MISTRAL_NAMED if "[ARGS]" in template else MISTRAL
    if "<tool_call>" in template:
        return HERMES
    if "<|python_tag|>" in template or '"parameters": ' in template:
        return LLAMA3
    return GENERIC
