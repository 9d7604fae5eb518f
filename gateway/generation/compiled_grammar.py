"""A grammar that llguidance has compiled for a model's tokens, and the places of answers in it.

Its lexer has as many states as the answers have come to: it is made of the regexes by derivation, as they are needed.
Answers share it, as most of them need the same states, until it is full; it fails for all of them then. Each goes on
with a new one of its own, from what it has come to, and later answers share another: no text is too long.
"""

from __future__ import annotations

import re
import threading
from concurrent.futures import Executor
from functools import cached_property

import numpy as np
import numpy.typing as npt
from llguidance import LLMatcher, LLParserLimits

from gateway.generation.token_trie import TokenTrie
from shared.errors import GrammarFailed

LEXER_STATES = 50_000
"""That a lexer may come to, of 0.3 to 0.6 KB each. A string with a `maxLength` takes some nine a character."""
LEAST_TOKENS = 16
"""That a new lexer has to last for. What fills one sooner would take seconds a token."""
REPLAYED = 256
"""Tokens at a time: no other thread runs meanwhile, for about a millisecond."""
_OPTIONS = '%llguidance {"no_forcing": true}'
"""Where only one text may come, tokens are the model's choice: which ones a tokenizer would take depends on what comes
before, and is not known here."""
_LEXER_FAILED = "lexer error: "
_TOO_COSTLY = re.compile(r"^lexer error: too many|items; max is|too many items", re.IGNORECASE)
_TOO_LARGE = re.compile(r"panic: .*u16::MAX|too big \(limit|too large|fuel exhausted|initial lexer configuration")
_PREFIX = re.compile(r"^at \d+\(\d+\): |failed to compile JSON schema: ")
_PLACES = ("\n  while processing", "\n   1 |", "\n<non-verbose/>")
_IN_OUR_WORDS = {"oneOf constraints are not supported": "its `oneOf` is not certain to fit one at most: use `anyOf`"}


class CompiledGrammar:
    """Shared by all answers that keep to it; what one of them works out of its regexes the others need not."""

    def __init__(self, trie: TokenTrie, lark: str, compiler: Executor) -> None:
        """Compiles at once, in this thread; later, when a lexer is full, in one of the `compiler`'s.

        Raises ValueError, saying what is wrong with `lark`.
        """
        self.vocab_size = trie.vocab_size
        self._tokens = trie.tokens
        self._text = LLMatcher.grammar_from_lark(f"{_OPTIONS}\n{lark}")
        self._compiler = compiler
        self._renewing = threading.Lock()
        self._beginning: LLMatcher | None = self._compile(LEXER_STATES)
        self._beginning.compute_bitmask()
        if self._beginning.is_error():
            raise ValueError(_reason(self._beginning.get_error()))

    def matcher(self) -> Place:
        return Place(self)

    def shared(self) -> LLMatcher:
        """The beginning, with the lexer that answers share. May compile: not for the event loop."""
        with self._renewing:
            if self._beginning is None:
                self._beginning = self._compiler.submit(self._compile, LEXER_STATES).result()
            return self._beginning.deep_copy()

    def retire(self) -> None:
        """A lexer that answers shared has failed. Where that is still so, later ones share another."""
        with self._renewing:
            if self._beginning is not None:
                self._beginning.compute_bitmask()
                if self._beginning.is_error():
                    self._beginning = None

    def resumed(self, ids: list[int]) -> LLMatcher:
        """What follows `ids`, with a lexer of its own. Not for the event loop."""
        passed = len(self._tokens.decode_bytes(ids))  # a byte takes one state at most
        matcher = self._compiler.submit(self._compile, LEXER_STATES + passed).result()
        for first in range(0, len(ids), REPLAYED):
            matcher.consume_tokens(ids[first : first + REPLAYED])  # it remembers an error
            matcher.compute_bitmask()  # which alone gives the lexer new fuel
        return matcher

    def _compile(self, lexer_states: int) -> LLMatcher:
        limits = LLParserLimits(
            max_items_in_row=8000,  # an object takes as many as it has optional properties, four times
            initial_lexer_fuel=300_000,  # with the size, it bounds how long others wait for their grammars: a second
            max_lexer_states=lexer_states,
            max_grammar_size=50_000,
            verbose_errors=False,  # they would quote what was generated
        )
        return LLMatcher(self._tokens, self._text, limits=limits, log_level=0)


class Place:
    """One answer's place in a grammar. Raises GrammarFailed where following it costs too much, and from then on."""

    def __init__(self, grammar: CompiledGrammar) -> None:
        self._grammar = grammar
        self._ids: list[int] = []
        self._resumed_at: int | None = None  # where its own lexer began
        self._allowed: npt.NDArray[np.bool_] | None = None

    def prepare(self) -> None:
        if self._allowed is None:
            self._allowed = self._work_out()

    def allowed(self) -> npt.NDArray[np.bool_]:
        if self._allowed is None:
            self._allowed = self._work_out()
        return self._allowed

    def accept(self, token: int) -> None:
        self._allowed = None
        accepted = self._matcher.consume_token(token)
        self._ids.append(token)
        if not accepted:
            self._resume()

    @cached_property
    def _matcher(self) -> LLMatcher:
        return self._grammar.shared()

    def _work_out(self) -> npt.NDArray[np.bool_]:
        mask = self._matcher.compute_bitmask()
        if self._matcher.is_error():
            self._resume()
            mask = self._matcher.compute_bitmask()
        self._check()
        bits = np.frombuffer(mask, np.uint8)
        allowed = np.unpackbits(bits, count=self._grammar.vocab_size, bitorder="little").view(np.bool_)
        if not allowed.any():
            raise GrammarFailed("nothing may come where the answer stands: what it has to keep to has no end there")
        return allowed

    def _resume(self) -> None:
        """Go on with a lexer of this answer's own, or with a new one, if it is that which has failed."""
        if not self._matcher.get_error().startswith(_LEXER_FAILED):
            self._check()
        if self._resumed_at is None:
            self._grammar.retire()
        elif len(self._ids) - self._resumed_at < LEAST_TOKENS:
            self._check()
        self._resumed_at = len(self._ids)
        self._matcher = self._grammar.resumed(self._ids)
        self._check()

    def _check(self) -> None:
        """The library's own words may quote a token, and stay here."""
        if not self._matcher.is_error():
            return
        if _TOO_COSTLY.search(self._matcher.get_error()):
            reason = "following what the answer has to keep to became too costly: use simpler patterns, smaller bounds"
            raise GrammarFailed(reason)
        raise RuntimeError("a token came that the grammar forbids, or its library failed")


def _reason(message: str) -> str:
    """What the compiler says is wrong, without where in the grammar, which its user has not written."""
    if _TOO_LARGE.search(message):
        return "it is too large: use fewer properties, values and patterns, and smaller bounds"
    for beginning in _PLACES:
        message = message.partition(beginning)[0]
    message = " ".join(_PREFIX.sub("", message).split())
    return _IN_OUR_WORDS.get(message.partition(".")[0], message)
