"""What a session keeps on a peer, and the peer's account of how much it has promised."""

from __future__ import annotations

from typing import Any

import torch
from transformers.cache_utils import Cache

from peer.model.slab import SlabLayer
from shared.errors import CacheOverrun, CropTooDeep, OutOfCache, PositionGap
from shared.types import BlockRange


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
            if not all(layer.holds(position) for layer in self.layers):
                raise CropTooDeep(f"a crop from {self.length} to {position} tokens is more than a sliding layer holds")
            self._set_length(position)

    def commit(self, tokens: int) -> None:
        """Keeps what a forward has written."""
        self._set_length(self.length + tokens)

    def _set_length(self, length: int) -> None:
        self.length = length
        for layer in self.layers:
            layer.length = length

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, layer_idx: int, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Called by the attention of block `layer_idx`, with (1, heads, tokens, dim)."""
        return self.layers[layer_idx - self.blocks.start].update(key_states, value_states)

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Committed tokens: the same for every block, until the forward is through."""
        return self.length


class CacheBudget:
    """Account of cache tokens: what the peer has, and what it promised to sessions. Holds no tensors."""

    def __init__(self, total: int) -> None:
        self.total = total
        self.free = total

    def reserve(self, tokens: int) -> None:
        """Takes `tokens` out of what is free. Raises OutOfCache."""
        if tokens > self.free:
            raise OutOfCache(f"{tokens} tokens asked for, {self.free} of {self.total} are free")
        self.free -= tokens

    def release(self, tokens: int) -> None:
        """Gives back what `reserve` took."""
        assert self.free + tokens <= self.total
        self.free += tokens
