"""Where a family keeps its blocks and what lies around them; models of other parts over the same weights.

Families differ in names only: a core module loops over a list of blocks, with an embedding and perhaps more before it,
and a norm and perhaps more after it. Knows nothing of files, devices or caches.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedConfig

from shared.errors import CheckpointError

_LAYERS = ("layers", "h", "blocks")
_EMBEDDINGS = ("embed_tokens", "word_embeddings", "wte", "embed_in")
_NORMS = ("norm", "final_layer_norm", "final_layernorm", "ln_f", "norm_f", "final_norm")
_SCALES = ("embedding_multiplier", "embed_scale", "scale_emb")  # numbers that a forward multiplies `inputs_embeds` by
_CONTEXTS = ("max_position_embeddings", "n_positions", "max_seq_len", "seq_length", "n_ctx")
_PER_LAYER = ("layer_types", "mlp_layer_types", "no_rope_layers")  # fields of a configuration with one entry a block


class _NoPositions(nn.Module):
    """Stands for an absolute position embedding where the hidden states carry it already."""

    def forward(self, ids: torch.Tensor, *_: Any, **__: Any) -> torch.Tensor:
        """A zero that broadcasts over the hidden states and, having no dimension, leaves their dtype alone."""
        return torch.zeros((), device=ids.device)


def _nothing() -> None:
    return None


# What a forward applies to `inputs_embeds` before the first block, and after the last; and what stands for each.
_BEFORE: dict[str, Callable[[], nn.Module | None]] = {
    "word_embeddings_layernorm": nn.Identity,  # BLOOM
    "emb_dropout": nn.Identity,  # GPT-NeoX, MPT
    "drop": nn.Identity,  # GPT-2, GPT-J
    "embed_dropout": nn.Identity,  # Phi
    "wpe": _NoPositions,  # GPT-2
    "embed_positions": _NoPositions,  # OPT
    "project_in": _nothing,  # small OPT
}
_AFTER: dict[str, Callable[[], nn.Module | None]] = {**dict.fromkeys(_NORMS, nn.Identity), "project_out": _nothing}


def core_path(model: nn.Module) -> tuple[str, ...]:
    """Attribute names from `model` to the module whose forward loops over the blocks; () when it is `model` itself."""
    todo: list[tuple[tuple[str, ...], nn.Module]] = [((), model)]
    for path, module in todo:
        if any(isinstance(getattr(module, name, None), nn.ModuleList) for name in _LAYERS):
            return path
        todo.extend(((*path, name), child) for name, child in module.named_children())
    raise CheckpointError(f"{type(model).__name__} has no list of blocks")


def core_of(model: nn.Module) -> nn.Module:
    """The module whose forward loops over the blocks: `model`, `model.model`, `model.transformer`, …"""
    return model.get_submodule(".".join(core_path(model)))


def layers_name(core: nn.Module) -> str:
    """Under which name `core` keeps its blocks."""
    return next(name for name in _LAYERS if isinstance(getattr(core, name, None), nn.ModuleList))


def embedding_name(core: nn.Module) -> str:
    """Under which name `core` keeps its token embedding."""
    return next(name for name in _EMBEDDINGS if isinstance(getattr(core, name, None), nn.Module))


def nothing_before(core: nn.Module) -> dict[str, Any]:
    """Stand-ins for what `core` does to hidden states before its first block."""
    modules = {name: make() for name, make in _BEFORE.items() if _has_module(core, name)}
    scales = {name: 1.0 for name in _SCALES if isinstance(getattr(core, name, None), int | float)}
    return modules | scales


def nothing_after(core: nn.Module) -> dict[str, Any]:
    """Stand-ins for what `core` does to hidden states after its last block."""
    return {name: make() for name, make in _AFTER.items() if _has_module(core, name)}


def _has_module(core: nn.Module, name: str) -> bool:
    return isinstance(getattr(core, name, None), nn.Module)


def config_of_blocks(config: PreTrainedConfig, start: int, end: int) -> PreTrainedConfig:
    """The configuration that a model of blocks [start, end) alone would have; no blocks when `start == end`."""
    part = copy.deepcopy(config)
    for name in _PER_LAYER:
        entries = getattr(part, name, None)
        if isinstance(entries, list | tuple):
            setattr(part, name, list(entries[start:end]))
    part.num_hidden_layers = end - start
    return part


def variant(model: nn.Module, path: tuple[str, ...], config: PreTrainedConfig, parts: Mapping[str, Any]) -> nn.Module:
    """A second model over the same weights, with `config` all along `path` and other `parts` at the path's end."""
    twin = copy.copy(model)
    twin.__dict__ = {**model.__dict__, "_modules": model._modules.copy(), "config": config}
    if path:
        setattr(twin, path[0], variant(getattr(model, path[0]), path[1:], config, parts))
    else:
        for name, part in parts.items():
            setattr(twin, name, part)
    return twin


def takes_position_ids(model: nn.Module) -> bool:
    """False for families that count positions themselves, from the cache."""
    return "position_ids" in inspect.signature(type(model).forward).parameters


def context_length(config: PreTrainedConfig) -> int:
    """Tokens that the model was made for. Raises CheckpointError when its configuration does not say."""
    for name in _CONTEXTS:
        value = getattr(config, name, None)
        if isinstance(value, int) and value > 0:
            return value
    raise CheckpointError(f"config.json does not say how long a context may be: it has none of {_CONTEXTS}")
