"""The nouns that every part of Corolla shares. Knows nothing of networks, tensors or HTTP."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NewType

PeerId = NewType("PeerId", str)
"""A libp2p peer ID in base58 (`12D3Koo…`): a node's name everywhere."""

Fingerprint = NewType("Fingerprint", str)
"""SHA-256 in hex over what a model is (configuration, tokenizer, weights)."""

SessionId = NewType("SessionId", str)
"""32 hex digits, drawn at random by the gateway that opens the session."""


@dataclass(frozen=True, slots=True, order=True)
class BlockRange:
    """Half-open range of transformer blocks, `[start, end)`, never empty."""

    start: int
    end: int

    def __post_init__(self) -> None:
        if not 0 <= self.start < self.end:
            raise ValueError(
                f"{self.start}:{self.end} is not a range of blocks: start must be at least 0 and below end"
            )

    @classmethod
    def parse(cls, text: str) -> BlockRange:
        """`"8:16"` to a range. Raises ValueError."""
        start, colon, end = text.partition(":")
        if not (colon and start.isdecimal() and end.isdecimal()):
            raise ValueError(f"{text!r} is not a range of blocks such as 8:16")
        return cls(int(start), int(end))

    def __len__(self) -> int:
        return self.end - self.start

    def __str__(self) -> str:
        return f"{self.start}:{self.end}"

    def covers(self, other: BlockRange) -> bool:
        """True when every block of `other` is in this range."""
        return self.start <= other.start and other.end <= self.end


@dataclass(frozen=True, slots=True)
class Span:
    """Blocks that one peer serves within a route."""

    peer: PeerId
    blocks: BlockRange


@dataclass(frozen=True, slots=True)
class Numerics:
    """What decides a peer's arithmetic, by name: `float32`, `none`, `float32`."""

    dtype: str
    quantization: str
    wire: str
