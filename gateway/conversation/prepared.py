"""From a conversation to a prompt, and from the text that comes to the parts of an answer."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

from gateway.conversation.answer import AnswerFinish, AnswerReader, Reader
from gateway.conversation.ask import Ask, ChatMessage, JsonObject, JsonSchema, NamedTool, Tool
from gateway.conversation.constraint import constraint
from gateway.conversation.dialect import Dialect, Message, dialect_of
from gateway.conversation.harmony import HarmonyReader
from gateway.conversation.limits import check
from gateway.conversation.messages import as_template_takes, tool_shape
from gateway.conversation.thinking import ThinkingReader
from gateway.conversation.tool_formats.formats import HARMONY
from gateway.conversation.tool_formats.reader import ToolReader, long_id, short_id
from gateway.generation.completion import ServedModel
from gateway.generation.grammar import Grammar
from gateway.generation.tokenizer import TextTokenizer

__all__ = ["AnswerFinish", "Prepared", "Reader", "prepare"]

_LAST_TOKENS = 16  # of a prompt: enough to see that it ends inside the thinking


@dataclass(frozen=True, slots=True)
class Prepared:
    """What the generation of an answer needs.

    `shown` are special tokens whose text the reader wants to see; `stop_ids` end an answer beside the model's own;
    a `grammar` holds it to a format or to calls of tools. Readers look for calls of `tools`, `most_calls` at most, and
    for thinking, which has begun already if it is `inside`.
    """

    prompt: list[int]
    grammar: Grammar | None
    shown: frozenset[int]
    stop_ids: frozenset[int]
    dialect: Dialect
    tools: frozenset[str] = frozenset()
    most_calls: int | None = None
    inside: bool = False

    def reader(self) -> Reader:
        """A new one for each choice."""
        marks = self.dialect.thinking
        new_id = short_id if self.dialect.short_ids else long_id
        if self.dialect.format is HARMONY:
            return HarmonyReader(self.tools, self.most_calls, new_id)
        tools = ToolReader(self.dialect.format, self.tools, self.most_calls, new_id) if self.tools else None
        return AnswerReader(ThinkingReader(marks, self.inside) if marks else None, tools)


async def takes_bare_calls(model: ServedModel) -> bool:
    """Does only its form say what is a call in this model's answers? Raises InvalidRequest for one that cannot chat.

    Then strict tools have a price: a text can have no line that begins as calls do.
    """
    return (await _dialect(model, ())).format.bare


async def prepare(model: ServedModel, ask: Ask) -> Prepared:
    """Apply the model's chat template, with its tools; compile the grammar. Raises InvalidRequest."""
    tokenizer = model.tokenizer
    await asyncio.to_thread(check, ask)
    dialect = await _dialect(model, ask.messages)
    tools = () if ask.tool_choice == "none" else ask.tools
    messages, shapes = await asyncio.to_thread(_told, ask, tools, dialect)
    prompt = await tokenizer.encode_chat(messages, shapes, ask.template_kwargs)
    inside = _is_inside_thinking(tokenizer, dialect, prompt)
    marks, ends = _marks_and_ends(dialect, calls=bool(tools))
    return Prepared(
        prompt=prompt,
        grammar=await _grammar(model, ask, dialect, inside),
        shown=_ids(tokenizer, marks) & tokenizer.special_ids,
        stop_ids=_ids(tokenizer, ends),
        dialect=dialect,
        tools=frozenset(tool.name for tool in tools),
        most_calls=1 if isinstance(ask.tool_choice, NamedTool) or not ask.parallel_tool_calls else None,
        inside=inside,
    )


async def _dialect(model: ServedModel, messages: Sequence[ChatMessage]) -> Dialect:
    if not model.tokenizer.chat_template(with_tools=False):
        await model.tokenizer.encode_chat(messages)  # raises, with the reason
    return await asyncio.to_thread(dialect_of, model.tokenizer)


async def _grammar(model: ServedModel, ask: Ask, dialect: Dialect, inside: bool) -> Grammar | None:
    calls = bool(ask.tools) and ask.tool_choice != "none"
    if not calls and dialect.thinking is None and dialect.format is not HARMONY:
        match ask.format:
            case JsonSchema(schema, param):
                return await model.grammars.json_schema(schema, param)
            case JsonObject():
                return await model.grammars.json_object()
            case None:
                return None
    text = await asyncio.to_thread(constraint, ask, dialect, inside, model.tokenizer)
    param = ask.format.param if isinstance(ask.format, JsonSchema) and not calls else "tools"
    return None if text is None else await model.grammars.lark(text, param)


def _told(ask: Ask, tools: Sequence[Tool], dialect: Dialect) -> tuple[list[Message], list[Message] | None]:
    """The messages and tools that the template is given."""
    messages = as_template_takes(ask.messages, tools, dialect)
    return messages, [tool_shape(tool) for tool in tools] if tools and dialect.shows_tools else None


def _is_inside_thinking(tokenizer: TextTokenizer, dialect: Dialect, prompt: Sequence[int]) -> bool:
    if dialect.thinking is None:
        return False
    last = tokenizer.decode(prompt[-_LAST_TOKENS:], tokenizer.special_ids)
    return last.rstrip().endswith(dialect.thinking.opener)


def _marks_and_ends(dialect: Dialect, calls: bool) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Tokens that the reader looks for, and those that end an answer, in one that may hold calls or not."""
    thinking = (dialect.thinking.opener, dialect.thinking.closer) if dialect.thinking else ()
    form = dialect.format
    return ((*thinking, *form.tokens), form.ends) if calls or form is HARMONY else (thinking, ())


def _ids(tokenizer: TextTokenizer, texts: Sequence[str]) -> frozenset[int]:
    return frozenset(id for id in map(tokenizer.token_id, texts) if id is not None)
