"""The bytes of single tokens, of which several may make one character."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

from tokenizers import Tokenizer

_BYTE_TOKEN = re.compile("<0x([0-9A-F]{2})>")


class TokenBytes:
    """Reads tokens as their tokenizer's decoder does, but each by itself.

    Decoding an id alone would lose what only its neighbours show: the space before a word at the beginning of a text,
    and the bytes of a character that several tokens share.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        steps = list(_steps(json.loads(tokenizer.decoder.__getstate__()))) if tokenizer.decoder else []
        kinds = {step["type"] for step in steps}
        self._byte_level = _byte_alphabet() if "ByteLevel" in kinds else None
        self._byte_fallback = "ByteFallback" in kinds
        self._spelled = [spelling for step in steps for spelling in _spellings(step)]
        self._by_itself = bool(kinds - _PLAIN)
        self._added = {id: added.content.encode() for id, added in tokenizer.get_added_tokens_decoder().items()}

    def __call__(self, token: int) -> bytes:
        """Empty for an id that is no token."""
        if token in self._added:
            return self._added[token]
        spelling = self._tokenizer.id_to_token(token)
        if spelling is None:
            return b""
        if self._byte_level is not None:
            return b"".join(self._byte_level.get(letter) or letter.encode() for letter in spelling)
        if self._byte_fallback and (byte := _BYTE_TOKEN.fullmatch(spelling)):
            return bytes.fromhex(byte[1])
        if self._by_itself:
            return self._tokenizer.decode([token], skip_special_tokens=False).encode()
        for spelled, meant in self._spelled:
            spelling = spelling.replace(spelled, meant)
        return spelling.encode()


_PLAIN = {"ByteLevel", "ByteFallback", "Metaspace", "Replace", "Fuse", "Strip"}
"""Kinds of decoders that change a token's spelling as is done here, or only what stands at a text's ends."""


def _steps(decoder: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The decoders of which one consists."""
    if decoder["type"] == "Sequence":
        for each in decoder["decoders"]:
            yield from _steps(each)
    else:
        yield decoder


def _spellings(step: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """What a decoder writes for which part of a token."""
    if step["type"] == "Metaspace":
        yield step["replacement"], " "
    elif step["type"] == "Replace" and "String" in step["pattern"]:
        yield step["pattern"]["String"], step["content"]


def _byte_alphabet() -> dict[str, bytes]:
    """Which byte each letter of byte-level BPE stands for: itself where that can be seen, else one from U+0100 on."""
    seen = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    unseen = [byte for byte in range(256) if byte not in seen]
    return {chr(byte): bytes([byte]) for byte in seen} | {
        chr(0x100 + place): bytes([byte]) for place, byte in enumerate(unseen)
    }
