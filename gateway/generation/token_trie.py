"""A model's tokens as bytes, in a tree: what grammars are matched against. Made once for a model."""

from __future__ import annotations

from llguidance import LLTokenizer, TokenizerWrapper

from gateway.generation.tokenizer import TextTokenizer

_SAMPLE = '{"name": ["x y", 12.5, true]}'


class TokenTrie:
    """Takes half a second for 49,000 tokens, part of which no other thread runs: make it before anybody waits."""

    def __init__(self, tokenizer: TextTokenizer, end_ids: frozenset[int], vocab_size: int | None = None) -> None:
        """`end_ids`, at least one, end an answer; `vocab_size` is the number of logits, if not that of the tokens.

        Raises ValueError for a tokenizer whose texts are more than its tokens' bytes one after the other.
        """
        self.vocab_size = tokenizer.vocab_size if vocab_size is None else vocab_size
        if not end_ids:
            raise ValueError("a grammar needs a token that ends an answer")
        size = max(self.vocab_size, tokenizer.vocab_size)  # some models have logits without tokens, some the reverse
        tokens = _Tokens(tokenizer, size, min(end_ids))
        self.tokens = LLTokenizer(TokenizerWrapper(tokens), n_vocab=size, eos_token=sorted(end_ids))


class _Tokens:
    """What llguidance asks of a tokenizer: the bytes of each token; special ones are matched by name or id alone."""

    bos_token_id = None

    def __init__(self, tokenizer: TextTokenizer, size: int, end_id: int) -> None:
        self._backend = tokenizer.backend
        self.eos_token_id = end_id
        self.tokens = [tokenizer.token_bytes(token) for token in range(size)]
        self.special_token_ids = sorted(tokenizer.special_ids)
        if b"".join(self.tokens[token] for token in self(_SAMPLE)).strip() != _SAMPLE.encode():
            raise ValueError("the tokens of a text, one after the other, are not that text")

    def __call__(self, text: str) -> list[int]:
        """How the tokenizer would write a text that begins a prompt."""
        return self._backend.encode(text, add_special_tokens=False).ids
