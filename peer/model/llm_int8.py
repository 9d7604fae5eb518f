"""LLM.int8(): int8 weights and activations, save for the activations' outlier columns, by bitsandbytes.

Dettmers et al., "LLM.int8(): 8-bit Matrix Multiplication for Transformers at Scale", NeurIPS 2022. For devices that
multiply int8 fast; on a CPU it is slow.
"""

from __future__ import annotations

import torch
from torch import nn

from peer.model.bitsandbytes_library import bitsandbytes

_OUTLIER = 6.0  # from the paper: a column with an activation beyond it is multiplied in float16


def llm_int8_linear(weight: torch.Tensor, bias: torch.Tensor | None, *, device: torch.device) -> nn.Module:
    """A linear map on `device` from `weight` (out, in), which lies in main memory.

    A column is an outlier for all rows of a product when it is for one: rows change each other, within int8's error.
    """
    library = bitsandbytes()
    outputs, inputs = weight.shape
    linear = library.nn.Linear8bitLt(
        inputs, outputs, bias is not None, has_fp16_weights=False, threshold=_OUTLIER, device="meta"
    )
    linear.weight = library.nn.Int8Params(weight.detach(), has_fp16_weights=False, requires_grad=False)
    linear.bias = None if bias is None else nn.Parameter(bias.detach(), requires_grad=False)
    return linear.to(device).eval()
