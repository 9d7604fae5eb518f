"""Weights in fewer bits: the ways to do it, and blocks whose weights are replaced by one of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import torch
from torch import nn
from transformers.models.falcon.modeling_falcon import FalconLinear
from transformers.pytorch_utils import Conv1D

from peer.model.experts import Int8Matrices, Nf4Matrices, is_fused, quantized_experts
from peer.model.llm_int8 import llm_int8_linear
from peer.model.nf4 import nf4_linear
from shared.errors import UsageError
from shared.few_rows import FewRowsLinear
from shared.int8 import Int8Linear

QUANTIZATIONS = ("none", "int8", "nf4")
_LINEAR = (nn.Linear, FewRowsLinear, FalconLinear)  # not what else derives from nn.Linear: a router's forward does more


@dataclass(frozen=True, slots=True)
class Way:
    """How a linear map, from its weight (out, in) and bias, and how fused matrices (experts, …, …) are replaced."""

    name: str
    linear: Callable[[torch.Tensor, torch.Tensor | None], nn.Module]
    matrices: Callable[[torch.Tensor], nn.Module]


def choose_way(quantization: str, dtype: torch.dtype, device: torch.device) -> Way | None:
    """How blocks on `device` that compute in `dtype` are quantized; None: not at all. Raises UsageError."""
    if quantization not in QUANTIZATIONS:
        raise UsageError(f"--quantize {quantization} is not built: use one of {', '.join(QUANTIZATIONS)}")
    if quantization == "none":
        return None
    if quantization == "nf4":
        return nf4_way(dtype, device)
    return int8_way(dtype) if device.type == "cpu" else llm_int8_way(dtype, device)


def int8_way(dtype: torch.dtype) -> Way:
    """torch's own weight-only int8: for a CPU."""
    return Way("int8", partial(Int8Linear, dtype=dtype), partial(Int8Matrices, dtype=dtype))


def llm_int8_way(dtype: torch.dtype, device: torch.device) -> Way:
    """bitsandbytes' int8 weights and activations: for CUDA; anywhere else it works too, slowly."""
    return Way("int8", partial(llm_int8_linear, device=device), partial(Int8Matrices, dtype=dtype))


def nf4_way(dtype: torch.dtype, device: torch.device) -> Way:
    """bitsandbytes' four bits."""
    return Way("nf4", partial(nf4_linear, dtype=dtype, device=device), partial(Nf4Matrices, device=device))


def quantize_block(block: nn.Module, way: Way, device: torch.device) -> None:
    """Replaces every matrix inside `block`, which lies in main memory, and moves the block to `device`.

    Norms, biases and the routers of experts stay as they are. Raises UsageError.
    """
    for parent in list(block.modules()):
        for name, child in list(parent.named_children()):
            if is_fused(child):
                setattr(parent, name, quantized_experts(child, way.matrices, way.name))
            elif isinstance(child, nn.Linear) and type(child) in _LINEAR:
                setattr(parent, name, way.linear(child.weight, child.bias))
            elif isinstance(child, Conv1D):
                setattr(parent, name, way.linear(child.weight.T, child.bias))
    block.to(device)


def held_bytes(module: nn.Module) -> int:
    """Bytes of all that `module` computes with: bitsandbytes keeps its scales beside parameters, not among them."""
    return sum(
        part.nbytes
        for tensor in (*module.parameters(), *module.buffers())
        for part in (tensor, *_statistics(tensor))
        if isinstance(part, torch.Tensor)
    )


def _statistics(weight: torch.Tensor) -> Iterator[torch.Tensor | None]:
    state = getattr(weight, "quant_state", None)
    yield getattr(state, "absmax", None)
    yield getattr(getattr(state, "state2", None), "absmax", None)
    yield getattr(weight, "SCB", None)
