"""A range of a model's blocks: hidden states in, hidden states out, by the family's own forward.

Knows nothing of sessions, links or time. One thread at a time may run it.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.cache_utils import get_layer_types_and_kwargs
from transformers.models.auto.modeling_auto import MODEL_MAPPING

from peer.model.cache import SessionCache
from peer.model.quantize import check_quantization, quantize_int8
from peer.model.slab import SlabLayer
from shared.anatomy import (
    config_of_blocks,
    core_of,
    core_path,
    embedding_name,
    layers_name,
    nothing_after,
    nothing_before,
    takes_position_ids,
    variant,
)
from shared.checkpoint.tensor_names import is_of
from shared.errors import UnsupportedFamily, UsageError
from shared.freed_memory import return_freed_memory
from shared.partial_model import load_partial, read_config
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
        check_quantization(quantization, device)
        config = read_config(directory)
        if blocks.end > config.num_hidden_layers:
            raise UsageError(f"blocks {blocks} are outside the model: it has blocks 0:{config.num_hidden_layers}")
        if quantization == "int8":
            return cls(_load_int8(directory, config, blocks, dtype, device), blocks, dtype, device)
        return cls(_load_range(directory, config, blocks, dtype, device), blocks, dtype, device)

    def new_cache(self, blocks: BlockRange, reserve: int) -> SessionCache:
        """An empty cache for a session that uses `blocks`, part of this range, for at most `reserve` tokens."""
        assert self.range.covers(blocks)
        windows = self._windows[blocks.start : blocks.end]
        return SessionCache(blocks, [SlabLayer(reserve, window) for window in windows], reserve)

    def cache_bytes_per_token(self, blocks: BlockRange) -> int:
        """Bytes that one token of a session over `blocks` takes, as measured; less once past a sliding window."""
        first = self.range.start
        return sum(self._token_bytes[blocks.start - first : blocks.end - first])

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


def _load_range(
    directory: Path, config: PreTrainedConfig, blocks: BlockRange, dtype: torch.dtype, device: torch.device
) -> PreTrainedModel:
    def remove(model: PreTrainedModel) -> None:
        core = core_of(model)
        layers = getattr(core, layers_name(core))
        for index in range(len(layers)):
            if not blocks.start <= index < blocks.end:
                layers[index] = nn.Identity()  # keeps the others' names in the checkpoint
        absent = {embedding_name(core): nn.Identity(), **nothing_before(core), **nothing_after(core)}
        for name, part in absent.items():
            setattr(core, name, part)

    model = load_partial(
        cast(type[PreTrainedModel], MODEL_MAPPING[type(config)]),
        config,
        directory,
        wanted=partial(is_of, blocks),
        remove=remove,
        dtype=dtype,
        device=device,
    )
    core = core_of(model)
    name = layers_name(core)
    setattr(core, name, getattr(core, name)[blocks.start : blocks.end])
    return model


def _load_int8(
    directory: Path, config: PreTrainedConfig, blocks: BlockRange, dtype: torch.dtype, device: torch.device
) -> PreTrainedModel:
    """Loads and quantizes block by block, so that only one is ever held in full precision."""
    model: PreTrainedModel | None = None
    layers = nn.ModuleList()
    for index in range(blocks.start, blocks.end):
        model = _load_range(directory, config, BlockRange(index, index + 1), dtype, device)
        core = core_of(model)
        (layer,) = getattr(core, layers_name(core))
        quantize_int8(layer, dtype)
        return_freed_memory()
        layers.append(layer)
    assert model is not None
    setattr(core_of(model), layers_name(core_of(model)), layers)
    return model


def _windows(config: PreTrainedConfig) -> list[int | None]:
    """For each block of the whole model, how many tokens its attention reaches over; None for all."""
    kinds, details = get_layer_types_and_kwargs(config)
    unknown = set(kinds) - {"full_attention", *_WINDOWED}
    if unknown:
        raise UnsupportedFamily(f"blocks with {', '.join(sorted(unknown))} cannot be split yet")
    return [
        detail["sliding_window"] if kind in _WINDOWED else None for kind, detail in zip(kinds, details, strict=True)
    ]
