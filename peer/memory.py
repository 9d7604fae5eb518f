"""How much memory a peer takes, and what of it is for the cache. Pure: what is free is told, not asked."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

GB = 10**9
FREE_PART = 0.8
"""What a peer takes of the memory that is free when it starts, at most."""

CACHE_PART = 0.2
"""What it keeps of that for the cache while it chooses how many blocks to hold."""

OUTBOX_PART = 0.1
"""Outboxes take no more than this of the main memory that is free when the blocks are loaded."""

LEAST_TOKENS = 2048
"""A cache below this serves nobody."""

ENOUGH_SESSIONS = 64
"""More sessions of the model's whole context than a peer is asked for: memory beyond them stays free."""

TOKENS_LIMIT = 2**31 - 1  # what a Pong can say

_CAP = re.compile(r"([0-9]{1,6}(?:\.[0-9]{1,6})?) ?(GB|%)?", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class MemoryCap:
    """What `--memory` says: at most so many GB (10^9 bytes), or per cent of all memory that the device has."""

    amount: float
    unit: Literal["GB", "%"]

    @classmethod
    def parse(cls, text: str) -> MemoryCap:
        """`8`, `7.5GB` or `50%`. Raises ValueError."""
        match = _CAP.fullmatch(text.strip())
        if match:
            amount, percent = float(match[1]), match[2] == "%"
            if 0 < amount <= (100 if percent else 10**6):
                return cls(amount, "%" if percent else "GB")
        raise ValueError(f"{text!r} is no amount of memory: say gigabytes, such as 8 or 7.5GB, or a share such as 50%")

    def __str__(self) -> str:
        return f"{self.amount:g}{self.unit}"

    def size(self, whole: int) -> int:
        """In bytes, on a device that has `whole` bytes."""
        return int(self.amount * GB) if self.unit == "GB" else int(self.amount / 100 * whole)


@dataclass(frozen=True, slots=True)
class MemoryLimit:
    """What blocks and cache may take together: `size` bytes, and `why`, a clause for people."""

    size: int
    why: str

    @classmethod
    def of(cls, free: int, whole: int, cap: MemoryCap | None) -> MemoryLimit:
        """Of `free` bytes on a device that has `whole`: a fifth is left alone, and what `cap` does not allow."""
        share = int(FREE_PART * free)
        if cap and cap.size(whole) < share:
            return cls(cap.size(whole), f"--memory {cap} allows {in_gb(cap.size(whole))}")
        return cls(share, f"{in_gb(free)} are free, of which a fifth is left alone")

    @property
    def for_blocks(self) -> int:
        """Bytes that blocks may take where their number is not told."""
        return int((1 - CACHE_PART) * self.size)


def cache_tokens(left: int, token_bytes: int, enough_bytes: int) -> int:
    """The cache of a peer that is told no size: `left` bytes in tokens, but no more than `enough_bytes` hold.

    Below LEAST_TOKENS only where so few are left.
    """
    enough = max(enough_bytes // token_bytes, LEAST_TOKENS)
    return min(max(0, left) // token_bytes, enough, TOKENS_LIMIT)


def outbox_bytes(free: int, whole: int, needed: int, cap: MemoryCap | None) -> int:
    """What all outboxes may take of main memory: as much as `cap` allows, else no more than is ever `needed`."""
    return cap.size(whole) if cap else min(needed, int(OUTBOX_PART * free))


def in_gb(size: int) -> str:
    """`1.50 GB`."""
    return f"{size / GB:.2f} GB"
