"""The grammars of a served model, compiled by llguidance. Knows nothing of conversations and HTTP.

A JSON schema becomes a grammar by `json_schema`. For any other shape, a grammar is written in llguidance's variant of
Lark, and compiled by `lark`:

- `start` is the whole answer. Names of rules are small letters, of terminals (regexes, one lexeme each) capitals.
- A special token is written `<|python_tag|>` where its name stands between `<` and `>`, else by id: `<[5]>`. It may
  stand in rules alone, not in terminals, and is never a model's end token: ends follow `start` by themselves.
- Arguments after a schema: `arguments: %json {…}` with the text of `enforceable(schema, param)`, which may stand
  anywhere in a rule: `call: "<tool_call>\\n{\\"name\\": \\"f\\", \\"arguments\\": " %json {…} "}\\n</tool_call>"`. Each
  `%json` is a document of its own: its `$ref`s begin at its root. Alternatives may begin alike.
- Text up to a mark: `text[lazy]: /(.|\\n)*<\\/think>/` takes the mark too, and as little as it can; up to a special
  token: `/(.|\\n)*/ <|python_tag|>`. Slashes within `/…/` are escaped. There is no lookaround.
- A token that was added to the vocabulary but is not special is ordinary text: `"<tool_call>"` may come as one token.
"""

from __future__ import annotations

import asyncio
import hashlib
import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from typing import Any

from gateway.generation.compiled_grammar import CompiledGrammar
from gateway.generation.grammar import Grammar
from gateway.generation.json_schema import enforceable
from gateway.generation.token_trie import TokenTrie
from gateway.generation.tokenizer import TextTokenizer
from shared.errors import InvalidRequest

LARK_LIMIT = 1024 * 1024
"""Characters."""
CACHED = 32
STACK_BYTES = 128 * 1024 * 1024
"""Of the thread that compiles. The compiler recurses from reference to reference, with some 3 KB a level, and an
overflow would end the process: json_schema.py lets 16,000 levels through at most."""


class Grammars:
    """Makes the grammars of one model. Each is compiled off the event loop, one at a time, and kept for a while."""

    def __init__(self, tokenizer: TextTokenizer, end_ids: frozenset[int], trie: TokenTrie | None = None) -> None:
        """`end_ids` end an answer. Without a `trie` one is made when it is first needed, which may stop all threads."""
        self._tokenizer = tokenizer
        self._end_ids = end_ids
        self._trie = trie
        self._compiled: OrderedDict[bytes, CompiledGrammar] = OrderedDict()  # touched by the compiling thread alone

    async def json_object(self, param: str = "response_format") -> Grammar:
        """Any JSON object. Raises InvalidRequest where this model cannot be held to a grammar."""
        return await self.json_schema({"type": "object"}, param)

    async def json_schema(self, schema: Mapping[str, Any], param: str) -> Grammar:
        """JSON that keeps to a schema. Raises InvalidRequest, naming `param`, where it cannot be enforced."""
        return await self._do(lambda: self._grammar(f"start: %json {enforceable(schema, param)}", param))

    async def lark(self, text: str, param: str) -> Grammar:
        """What `text` says, as above. Raises InvalidRequest, naming `param`, where it cannot be compiled."""
        if len(text) > LARK_LIMIT:
            raise InvalidRequest(f"{param}: what the answer has to keep to is too large", param, "invalid_grammar")
        return await self._do(lambda: self._grammar(text, param))

    async def _do(self, make: Callable[[], CompiledGrammar]) -> CompiledGrammar:
        return await asyncio.get_running_loop().run_in_executor(self._thread, make)

    def _grammar(self, lark: str, param: str) -> CompiledGrammar:
        """Compiled now, or lately."""
        digest = hashlib.sha256(lark.encode()).digest()
        if digest not in self._compiled:
            self._compiled[digest] = self._compile(lark, param)
        self._compiled.move_to_end(digest)
        if len(self._compiled) > CACHED:
            self._compiled.popitem(last=False)
        return self._compiled[digest]

    def _compile(self, lark: str, param: str) -> CompiledGrammar:
        trie = self._tokens(param)
        try:
            return CompiledGrammar(trie, lark, self._thread)
        except ValueError as error:
            reason = f"{param}: no answer can be held to this: {str(error)[:300]}"
            raise InvalidRequest(reason, param, "invalid_grammar") from error

    def _tokens(self, param: str) -> TokenTrie:
        if not self._end_ids:
            raise InvalidRequest("this model has no end token, so its answers can have no format", param)
        try:
            self._trie = self._trie or TokenTrie(self._tokenizer, self._end_ids)
        except ValueError as error:
            reason = "this model's tokenizer is of a kind for which answers can have no format"
            raise InvalidRequest(reason, param) from error
        return self._trie

    @cached_property
    def _thread(self) -> ThreadPoolExecutor:
        usual = threading.stack_size(STACK_BYTES)
        try:
            thread = ThreadPoolExecutor(1, thread_name_prefix="grammars")
            thread.submit(int)  # starts it
        finally:
            threading.stack_size(usual)
        return thread
