"""A range of a model's blocks: hidden states in, hidden states out, by the family's own forward.

Knows nothing of sessions, links or time. One thread at a time may run it.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.cache_utils import get_layer_types_and_kwargs

from peer.model.cache import SessionCache
from peer.model.load import load_model
from peer.model.quantize import held_bytes
from peer.model.ragged import Part, RaggedCache, can_be_ragged, use_ragged_attention
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
        self.parameter_bytes = held_bytes(model)
        self._model = model
        self._path = core_path(model)
        core = core_of(model)
        self._layers_name = layers_name(core)
        self._layers = list(getattr(core, self._layers_name))
        self._takes_positions = takes_position_ids(model)
        self._windows = _windows(model.config)
        self._spans: dict[BlockRange, nn.Module] = {}
        self.batches = can_be_ragged(model)
        """Whether sessions share a forward; else each one's tokens go through the weights by themselves."""
        if self.batches:
            use_ragged_attention(model)
        self._direct_keys = False
        self._token_bytes = self._measure_token_bytes()

    @classmethod
    def load(
        cls, directory: Path, blocks: BlockRange, *, dtype: torch.dtype, device: torch.device, quantization: str
    ) -> Blocks:
        """Reads the tensors of `blocks` and no others. `quantization` is "none", "int8" or "nf4".

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

    def forward(self, hidden: torch.Tensor, cache: SessionCache, position: int) -> torch.Tensor:
        """(tokens, hidden) at positions from `position` through the blocks of `cache`, which then holds them.

        Below the cache's length, the cache is cropped first. Raises PositionGap, CropTooDeep and CacheOverrun.
        """
        return self.forward_together([Part(hidden, cache, position)])[0]

    @torch.inference_mode()
    def forward_together(self, parts: Sequence[Part]) -> list[torch.Tensor]:
        """`forward` for several sessions that use the same blocks, each at most once, in one pass where `batches`.

        Raises what `forward` raises; then no cache holds more than before.
        """
        for part in parts:
            part.cache.begin(part.position, len(part.hidden))
        outputs = self._forward_ragged(parts) if self.batches else [self._forward_alone(part) for part in parts]
        for part in parts:
            part.cache.commit(len(part.hidden))
        return outputs

    def _forward_ragged(self, parts: Sequence[Part]) -> list[torch.Tensor]:
        tokens = [len(part.hidden) for part in parts]
        cache = RaggedCache([part.cache for part in parts], tokens, direct=self._direct_keys)
        output = self._run(
            parts[0].cache.blocks,
            torch.cat([part.hidden for part in parts]) if len(parts) > 1 else parts[0].hidden,
            torch.cat([_positions(part) for part in parts]) if len(parts) > 1 else _positions(parts[0]),
            past_key_values=cache,
            ragged=cache,
        )
        self._direct_keys = cache.direct
        return list(output.split(tokens))

    def _forward_alone(self, part: Part) -> torch.Tensor:
        return self._run(part.cache.blocks, part.hidden, _positions(part), past_key_values=part.cache)

    def _run(self, blocks: BlockRange, hidden: torch.Tensor, positions: torch.Tensor, **caches: Any) -> torch.Tensor:
        if self._takes_positions:
            caches["position_ids"] = positions.to(self.device)[None]
        span = self._span(blocks)
        return span(inputs_embeds=hidden.to(self.device, self.dtype)[None], use_cache=True, **caches).last_hidden_state[
            0
        ]

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


def _positions(part: Part) -> torch.Tensor:
    return torch.arange(part.position, part.position + len(part.hidden))
