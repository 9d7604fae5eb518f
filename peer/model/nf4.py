"""nf4: four bits a weight, a level of the normal distribution's quantiles each, by bitsandbytes.

Blocks of 64 weights share a scale, and the scales are themselves quantized ("double quantization"): Dettmers et al.,
"QLoRA: Efficient Finetuning of Quantized LLMs", NeurIPS 2023.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from peer.model.bitsandbytes_library import bitsandbytes

_BLOCK = 64  # weights to one scale
_PANEL = 32  # outputs that the CPU's fused kernel takes at once


def nf4_linear(
    weight: torch.Tensor, bias: torch.Tensor | None, *, dtype: torch.dtype, device: torch.device
) -> nn.Module:
    """A linear map on `device` from `weight` (out, in); its products are in `dtype`."""
    outputs, inputs = weight.shape
    linear = bitsandbytes().nn.Linear4bit(
        inputs, outputs, bias is not None, compute_dtype=dtype, quant_type="nf4", device="meta"
    )
    linear.weight = nf4_parameter(weight, module=linear)
    linear.bias = None if bias is None else nn.Parameter(bias.detach(), requires_grad=False)
    linear.to(device).eval()
    if outputs % _PANEL or inputs % _BLOCK:
        linear.support_avx512bf16_for_cpu = False  # the fused kernel asserts whole panels and blocks
    with torch.no_grad():  # the first product reorders the weights for that kernel: now, not in a session's time
        linear(torch.zeros(1, inputs, dtype=dtype, device=device))
    return linear


def nf4_parameter(weight: torch.Tensor, module: nn.Module | None = None) -> Any:
    """`weight` (…, …), to be quantized by its first `to(device)`."""
    return bitsandbytes().nn.Params4bit(
        weight.detach(), requires_grad=False, compress_statistics=True, quant_type="nf4", module=module
    )


def nf4_values(parameter: Any) -> torch.Tensor:
    """The matrix that a quantized parameter stands for, in the dtype that it was quantized from."""
    return bitsandbytes().functional.dequantize_4bit(parameter.data, parameter.quant_state)
