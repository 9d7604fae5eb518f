"""A range of a model's blocks: hidden states in, hidden states out, by the family's own forward.

Knows nothing of sessions, links or time. One thread at a time may run it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.cache_utils import get_layer_types_and_kwargs

from peer.model.cache import SessionCache
from peer.model.load import load_model
from peer.model.slab import SlabLayer, most_rows
from shared.anatomy import (
    config_of_blocks,
    core_of,
    core_path,
    layers_name,
    takes_position_ids,
    variant,
)
from shared.errors import UnsupportedFamily
from shared.types import BlockRange

_WINDOWED = ("sliding_attention", "chunked_attention")


class Blocks:
    """The blocks of `range`, loaded. A session may use any part of them."""

    def __init__(self, model: PreTrainedModel, blocks: BlockRange, dtype: torch.dtype, device: torch.device) -> None:
        """`model` holds exactly the blocks of the range, in order, and nothing before or after them."""
        self.range = blocks
        self.dtype = dtype
        self.device = device
        self.hidden_size: int = model.config.hidden_size
        self.parameter_bytes = sum(part.nbytes for part in (*model.parameters(), *model.buffers()))
        self._model = model
        self._path = core_path(model)
        core = core_of(model)
        self._layers_name = layers_name(core)
        self._layers = list(getattr(core, self._layers_name))
        self._positions = takes_position_ids(model)
        self._windows = _windows(model.config)
        self._spans: dict[BlockRange, nn.Module] = {}
        self._token_bytes = self._measure_token_bytes()

    @classmethod
    def load(
        cls, directory: Path, blocks: BlockRange, *, dtype: torch.dtype, device: torch.device, quantization: str
    ) -> Blocks:
        """Reads the tensors of `blocks` and no others. `quantization` is "none" or "int8".

        Raises UnsupportedFamily, UsageError (a range outside the model, a quantization not built) and CheckpointError.
        """
        return cls(load_model(directory, blocks, dtype, device, quantization), blocks, dtype, device)

    def new_cache(self, blocks: BlockRange, reserve: int) -> SessionCache:
        """An empty cache for a session that uses `blocks`, part of this range, for at most `reserve` tokens."""
        assert self.range.covers(blocks)
        windows = self._windows[blocks.start : blocks.end]
        return SessionCache(blocks, [SlabLayer(reserve, window) for window in windows], reserve)

    def cache_bytes(self, blocks: BlockRange, tokens: int) -> int:
        """Bytes that a session of so many tokens over `blocks` takes at most, from the shapes that a forward made."""
        first = self.range.start
        return sum(
            token_bytes * most_rows(tokens, window)
            for token_bytes, window in zip(
                self._token_bytes[blocks.start - first : blocks.end - first],
                self._windows[blocks.start : blocks.end],
                strict=True,
            )
        )

    @torch.inference_mode()
    def forward(self, hidden: torch.Tensor, cache: SessionCache, position: int) -> torch.Tensor:
        """(tokens, hidden) at positions from `position` through the blocks of `cache`, which then holds them.

        Below the cache's length, the cache is cropped first. Raises PositionGap, CropTooDeep and CacheOverrun.
        """
        tokens = hidden.shape[0]
        cache.begin(position, tokens)
        positions: dict[str, Any] = {}
        if self._positions:
            positions["position_ids"] = torch.arange(position, position + tokens, device=self.device)[None]
        output = self._span(cache.blocks)(
            inputs_embeds=hidden.to(self.device, self.dtype)[None], past_key_values=cache, use_cache=True, **positions
        )
        cache.commit(tokens)
        return output.last_hidden_state[0]

    def _span(self, blocks: BlockRange) -> nn.Module:
        """The model of `blocks` alone, over the same weights."""
        if blocks not in self._spans:
            first = self.range.start
            layers = nn.ModuleList(self._layers[blocks.start - first : blocks.end - first])
            config = config_of_blocks(self._model.config, blocks.start, blocks.end)
            self._spans[blocks] = variant(self._model, self._path, config, {self._layers_name: layers})
        return self._spans[blocks]

    def _measure_token_bytes(self) -> list[int]:
        """One token through all blocks shows what each really keeps, whatever its family's attention."""
        self._token_bytes = []
        cache = self.new_cache(self.range, reserve=1)
        self.forward(torch.zeros(1, self.hidden_size), cache, 0)
        return [layer.token_bytes for layer in cache.layers]


def _windows(config: PreTrainedConfig) -> list[int | None]:
    """For each block of the whole model, how many tokens its attention reaches over; None for all."""
    kinds, details = get_layer_types_and_kwargs(config)
    unknown = set(kinds) - {"full_attention", *_WINDOWED}
    if unknown:
        raise UnsupportedFamily(f"blocks with {', '.join(sorted(unknown))} cannot be split yet")
    return [
        detail["sliding_window"] if kind in _WINDOWED else None for kind, detail in zip(kinds, details, strict=True)
    ]
