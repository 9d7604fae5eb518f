"""What a session keeps on a peer, and the peer's account of how much it has promised."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from transformers.cache_utils import Cache

from peer.model.slab import SlabLayer
from shared.errors import CacheOverrun, CropTooDeep, OutOfCache, PositionGap
from shared.types import BlockRange

SESSION_TOKENS = 2**24
"""The longest session that a peer holds, whatever its cache."""

KEPT_PART = 10
"""One part in so many of the budget is kept for sessions that grow."""


class SessionCache(Cache):
    """Keys and values of one session for the blocks that it uses, up to the `reserve` tokens promised to it.

    Blocks have their number in the whole model here, as their attention modules have. Used by the torch thread alone.
    """

    layers: list[SlabLayer]  # pyright: ignore[reportIncompatibleVariableOverride]

    def __init__(self, blocks: BlockRange, layers: list[SlabLayer], reserve: int) -> None:
        super().__init__(layers=list(layers))
        self.blocks = blocks
        self.reserve = reserve
        self.length = 0  # committed tokens

    def begin(self, position: int, tokens: int) -> None:
        """Prepares for `tokens` at `position`: crops what lies behind it, which costs nothing.

        Raises PositionGap above the length, CropTooDeep when a sliding layer no longer holds what a crop needs, and
        CacheOverrun beyond the reservation; the cache is then as it was.
        """
        if position > self.length:
            raise PositionGap(f"position {position} leaves a gap: the cache holds {self.length} tokens")
        if position + tokens > self.reserve:
            raise CacheOverrun(f"{position + tokens} tokens are more than the {self.reserve} reserved")
        if position < self.length:
            self._check_depth(position)
            self._set_length(position)

    @torch.inference_mode()
    def take(self, parent: SessionCache, length: int) -> None:
        """Become a copy of the first `length` tokens of `parent`, over the same blocks; this cache is empty.

        Raises PositionGap, CropTooDeep and CacheOverrun; the cache is then as it was.
        """
        assert self.blocks == parent.blocks
        if length > parent.length:
            raise PositionGap(f"{length} tokens cannot be copied of {parent.length}")
        if length > self.reserve:
            raise CacheOverrun(f"{length} tokens are more than the {self.reserve} reserved")
        parent._check_depth(length)
        for layer, other in zip(self.layers, parent.layers, strict=True):
            layer.take(other, length)
        self._set_length(length)

    def _check_depth(self, position: int) -> None:
        """Raises CropTooDeep where what a crop to `position` needs is not held any more."""
        if 0 < position < min(self.length, self.shallowest):
            raise CropTooDeep(f"a crop from {self.length} to {position} tokens is more than a sliding layer holds")

    @property
    def shallowest(self) -> int:
        """The lowest position above 0 that a crop may go to: sliding layers have dropped what lies further behind."""
        return max((layer.shallowest for layer in self.layers), default=0)

    def commit(self, tokens: int) -> None:
        """Keeps what a forward has written."""
        self._set_length(self.length + tokens)

    def grow(self, reserve: int) -> None:
        """Raises the limit to `reserve` tokens. Called beside the torch thread, perhaps while a forward runs.

        That is safe, since a forward reads the limit and never writes it, and is right with either value: its tokens
        were admitted below the old limit, which here only rises. A layer without a window that takes the new one early
        doubles its rows a little further; a window's reach does not depend on it.
        """
        assert reserve >= self.reserve
        for layer in self.layers:
            layer.reserve = reserve
        self.reserve = reserve  # last: a forward that this lets begin finds layers that have grown

    def _set_length(self, length: int) -> None:
        self.length = length
        for layer in self.layers:
            layer.crop(length)

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, layer_idx: int, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Called by the attention of block `layer_idx`, with (1, heads, tokens, dim)."""
        return self.layers[layer_idx - self.blocks.start].update(key_states, value_states)

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Committed tokens: the same for every block, until the forward is through."""
        return self.length


CacheCost = Callable[[BlockRange, int], int]
"""Bytes that a session of so many tokens over these blocks takes at most: `Blocks.cache_bytes`."""


class CacheBudget:
    """Account of cache bytes: what the peer has, and what it promised to sessions. Holds no tensors.

    A tenth is kept for sessions that grow, so that those that run are not starved by those that come. What is told in
    tokens counts those of one session over the whole range.
    """

    def __init__(self, total: int, whole: BlockRange, cost: CacheCost) -> None:
        """`total` bytes for sessions over `whole` or parts of it, each at its `cost`."""
        self.total = total
        self.free = total
        self._whole = whole
        self._cost = cost
        self._token_bytes = cost(whole, 1)

    @classmethod
    def of_tokens(cls, tokens: int, whole: BlockRange, cost: CacheCost) -> CacheBudget:
        """What one session of so many tokens over `whole` would take, if no window bounded it."""
        return cls(tokens * cost(whole, 1), whole, cost)

    @property
    def tokens(self) -> int:
        """All bytes, as tokens that no window bounds."""
        return self.total // self._token_bytes

    @property
    def free_tokens(self) -> int:
        """Free bytes, as tokens that no window bounds."""
        return self.free // self._token_bytes

    @property
    def room_tokens(self) -> int:
        """The longest session that can be opened now."""
        return longest_session(self._room, self._cost_of_whole)

    @property
    def longest_tokens(self) -> int:
        """The longest session that can be opened when there is no other."""
        return longest_session(self.total - self._kept, self._cost_of_whole)

    def open(self, blocks: BlockRange, tokens: int) -> int:
        """Takes what a new session needs; its bytes. Raises OutOfCache."""
        size = self._size(blocks, tokens)
        if size > self._room:
            raise OutOfCache(
                f"{tokens} tokens asked for, there is room for {self.room_tokens} ({self.free} bytes of {self.total} "
                f"are free, of which {self._kept} are kept for sessions that grow)"
            )
        self.free -= size
        return size

    def extend(self, held: int, blocks: BlockRange, tokens: int, *, needed: bool) -> int:
        """Takes what a session that holds `held` bytes lacks; the bytes that it holds then. Raises OutOfCache.

        Only who has `needed` them soon gets at those that are kept.
        """
        size = self._size(blocks, tokens)
        free = self.free if needed else self._room
        if size - held > free:
            raise OutOfCache(f"{size - held} bytes more asked for, of {self.total} there are {free} for this session")
        self.free -= size - held
        return size

    def release(self, size: int) -> None:
        """Gives back the bytes that a session held."""
        assert self.free + size <= self.total
        self.free += size

    @property
    def _kept(self) -> int:
        return self.total // KEPT_PART

    @property
    def _room(self) -> int:
        return max(0, self.free - self._kept)

    def _size(self, blocks: BlockRange, tokens: int) -> int:
        if tokens > SESSION_TOKENS:
            raise OutOfCache(f"{tokens} tokens asked for, a session has at most {SESSION_TOKENS}")
        return self._cost(blocks, tokens)

    def _cost_of_whole(self, tokens: int) -> int:
        return self._cost(self._whole, tokens)


def longest_session(size: int, cost: Callable[[int], int]) -> int:
    """Tokens of the longest session whose `cost` is at most `size` bytes; pure.

    `cost` begins at 0 and never falls, and no token costs more than the one before: windows only make later tokens
    cheaper. So going on at the price of the next token never goes too far, and ends after as many steps as the
    blocks have different windows.
    """
    tokens = 0
    while tokens < SESSION_TOKENS:
        spent = cost(tokens)
        price = cost(tokens + 1) - spent
        if spent + price > size:
            return tokens
        if not price:  # every block slides by now
            return SESSION_TOKENS
        tokens += (size - spent) // price
    return SESSION_TOKENS
