"""Blocks from a checkpoint's folder: only their tensors are read, and quantized block by block."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import cast

import torch
from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.models.auto.modeling_auto import MODEL_MAPPING

from peer.model.quantize import Way, choose_way, quantize_block
from shared.anatomy import core_of, embedding_name, layers_name, nothing_after, nothing_before
from shared.checkpoint.tensor_names import is_of
from shared.errors import UsageError
from shared.few_rows import speed_up_decoding
from shared.freed_memory import return_freed_memory
from shared.partial_model import load_partial, read_config
from shared.types import BlockRange


def load_model(
    directory: Path, blocks: BlockRange, dtype: torch.dtype, device: torch.device, quantization: str
) -> PreTrainedModel:
    """A model of exactly `blocks`. Raises UnsupportedFamily, UsageError and CheckpointError."""
    way = choose_way(quantization, dtype, device)
    config = read_config(directory)
    if blocks.end > config.num_hidden_layers:
        raise UsageError(f"blocks {blocks} are outside the model: it has blocks 0:{config.num_hidden_layers}")
    if way is None:
        model = _load_range(directory, config, blocks, dtype, device)
        speed_up_decoding(model)
        return model
    return _load_quantized(directory, config, blocks, dtype, device, way)


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


def _load_quantized(
    directory: Path,
    config: PreTrainedConfig,
    blocks: BlockRange,
    dtype: torch.dtype,
    device: torch.device,
    way: Way,
) -> PreTrainedModel:
    """Loads and quantizes block by block, so that only one is ever held in full precision, and in main memory."""
    config._experts_implementation = "eager"  # the one that asks for one expert at a time
    model: PreTrainedModel | None = None
    layers = nn.ModuleList()
    for index in range(blocks.start, blocks.end):
        model = _load_range(directory, config, BlockRange(index, index + 1), dtype, torch.device("cpu"))
        core = core_of(model)
        (layer,) = getattr(core, layers_name(core))
        quantize_block(layer, way, device)
        return_freed_memory()
        layers.append(layer)
    assert model is not None
    setattr(core_of(model), layers_name(core_of(model)), layers)
    _share_config(model)
    return cast(PreTrainedModel, nn.Module.to(model, device)).requires_grad_(False).eval()


def _share_config(model: PreTrainedModel) -> None:
    """Each block came with a copy of its own; whoever sets an attention function sets it for all of them."""
    for module in model.modules():
        if isinstance(vars(module).get("config"), PreTrainedConfig):
            vars(module)["config"] = model.config
