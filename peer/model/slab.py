"""Keys and values of one block for one session: preallocated rows, written in place and cropped by moving a number."""

from __future__ import annotations

from typing import Any

import torch
from transformers.cache_utils import CacheLayerMixin

SLACK = 512  # tokens behind its window that a sliding layer still holds, so that crops up to this deep stay exact
_FIRST_ROWS = 64


def most_rows(reserve: int, window: int | None) -> int:
    """Rows that a layer for `reserve` tokens ever holds: all of them, or a window with what makes crops exact."""
    return reserve if window is None else min(reserve, window + 2 * SLACK)


class SlabLayer(CacheLayerMixin):
    """Holds (1, heads, rows, dim) keys and values; row 0 is position `first`, `length` tokens are committed.

    A forward writes behind `length` and leaves it alone: one that fails half-way has changed nothing. A layer with a
    `window` (sliding or chunked attention) drops what lies more than window + SLACK behind.
    """

    is_croppable = True
    is_sliding: bool

    def __init__(self, reserve: int, window: int | None = None) -> None:
        super().__init__()
        self.reserve = reserve
        self.window = window
        self.is_sliding = window is not None
        self.first = 0
        self.length = 0
        self._rows = 0

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        """Part of transformers' interface: makes room for the first rows."""
        self._make_room(key_states, value_states)

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Writes (1, heads, tokens, dim) behind the committed tokens; returns all that these may attend to."""
        tokens = key_states.shape[2]
        if self.length - self.first + tokens > self._rows:
            self._make_room(key_states, value_states)
        start = self.length - self.first
        end = start + tokens
        assert self.keys is not None
        assert self.values is not None
        self.keys[:, :, start:end] = key_states
        self.values[:, :, start:end] = value_states
        visible = max(0, start - self._reach())
        return self.keys[:, :, visible:end], self.values[:, :, visible:end]

    @property
    def shallowest(self) -> int:
        """The lowest length above 0 at which all that the next token may attend to is still held."""
        return self.first + self._reach() if self.first else 0

    def crop(self, length: int) -> None:
        """Hold so many committed tokens; with none, the layer begins anew."""
        self.length = length
        self.first = min(self.first, length)

    def take(self, other: SlabLayer, length: int) -> None:
        """Become a copy of the first `length` tokens of `other`, which holds what follows them; this layer is empty."""
        if other.keys is None or other.values is None:
            return
        held = length - other.first
        self._rows = min(most_rows(self.reserve, self.window), held + _FIRST_ROWS)
        self.keys, self.values = (_copied(slab, held, self._rows) for slab in (other.keys, other.values))
        self.first, self.length, self.is_initialized = other.first, length, True

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Number of keys that `update` will return for so many queries, and the position of the first of them."""
        offset = max(0, self.length - self._reach())
        return self.length - offset + query_length, offset

    def get_seq_length(self) -> int:
        """Committed tokens."""
        return self.length

    def get_max_length(self) -> int:
        """Tokens that a query attends to at most; -1 for all."""
        return self.window or -1

    @property
    def token_bytes(self) -> int:
        """Bytes of one token's keys and values; 0 before the first update."""
        if self.keys is None or self.values is None:
            return 0
        return sum(slab[:, :, :1].numel() * slab.element_size() for slab in (self.keys, self.values))

    def _reach(self) -> int:
        """How far behind a query its oldest key may lie."""
        return self.reserve if self.window is None else self.window - 1

    def _make_room(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        oldest = max(self.first, self.length - self._reach() - SLACK)
        needed = self.length - oldest + key_states.shape[2]
        grown = max(_FIRST_ROWS, 2 * self._rows)
        if self.window is not None:
            grown = min(grown, self.window + 2 * SLACK)  # once full, rows move together every SLACK tokens
        rows = min(self.reserve, max(needed, grown))
        self.keys = self._moved(self.keys, key_states, oldest, rows)
        self.values = self._moved(self.values, value_states, oldest, rows)
        self.first, self._rows, self.is_initialized = oldest, rows, True

    def _moved(self, slab: torch.Tensor | None, like: torch.Tensor, oldest: int, rows: int) -> torch.Tensor:
        moved = like.new_empty((*like.shape[:2], rows, like.shape[3]))
        if slab is not None:
            moved[:, :, : self.length - oldest] = slab[:, :, oldest - self.first : self.length - self.first]
        return moved


def _copied(slab: torch.Tensor, held: int, rows: int) -> torch.Tensor:
    """The first `held` rows of a slab in a new one with so many `rows`."""
    copied = slab.new_empty((*slab.shape[:2], rows, slab.shape[3]))
    copied[:, :, :held] = slab[:, :, :held]
    return copied
