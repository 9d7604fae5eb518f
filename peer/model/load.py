"""Blocks from a checkpoint's folder: only their tensors are read, and quantized block by block."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import cast

import torch
from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.models.auto.modeling_auto import MODEL_MAPPING

from peer.model.quantize import check_quantization, quantize_int8
from shared.anatomy import core_of, embedding_name, layers_name, nothing_after, nothing_before
from shared.checkpoint.tensor_names import is_of
from shared.errors import UsageError
from shared.freed_memory import return_freed_memory
from shared.partial_model import load_partial, read_config
from shared.types import BlockRange


def load_model(
    directory: Path, blocks: BlockRange, dtype: torch.dtype, device: torch.device, quantization: str
) -> PreTrainedModel:
    """A model of exactly `blocks`. Raises UnsupportedFamily, UsageError and CheckpointError."""
    check_quantization(quantization, device)
    config = read_config(directory)
    if blocks.end > config.num_hidden_layers:
        raise UsageError(f"blocks {blocks} are outside the model: it has blocks 0:{config.num_hidden_layers}")
    load = _load_int8 if quantization == "int8" else _load_range
    return load(directory, config, blocks, dtype, device)


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
