"""Weight-only int8 on a CPU: a byte a weight, one scale an output channel, activations as they are."""

from __future__ import annotations

import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from shared.errors import UsageError

QUANTIZATIONS = ("none", "int8")
_FEW_ROWS = 8  # up to here the packed product reads less memory than it loses in arithmetic


class Int8Linear(nn.Module):
    """A linear map with int8 weights (out, in) and scales (out), a bfloat16 number each, so exact in every dtype."""

    weight: torch.Tensor
    scale: torch.Tensor
    narrow_scale: torch.Tensor
    bias: torch.Tensor | None

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None, dtype: torch.dtype) -> None:
        """Quantizes `weight` (out, in); products and bias are in `dtype`."""
        super().__init__()
        exact = weight.float()
        narrow = (exact.abs().amax(dim=1) / 127).clamp_(min=1e-12).bfloat16()
        levels = (exact / narrow.float()[:, None]).round_().clamp_(-127, 127)
        self.register_buffer("weight", levels.to(torch.int8).contiguous())
        self.register_buffer("narrow_scale", narrow)
        self.register_buffer("scale", narrow.to(dtype))
        self.register_buffer("bias", None if bias is None else bias.to(dtype))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(…, in) to (…, out), in the dtype of `x`."""
        rows = x.reshape(-1, x.shape[-1])
        product = self._packed(rows) if rows.shape[0] <= _FEW_ROWS else self._unpacked(rows)
        if self.bias is not None:
            product = product + self.bias
        return product.view(*x.shape[:-1], -1)

    def _packed(self, rows: torch.Tensor) -> torch.Tensor:
        # The kernel is fast for bfloat16 activations alone: in float32 it takes ten times as long as a float product.
        return torch.ops.aten._weight_int8pack_mm(rows.bfloat16(), self.weight, self.narrow_scale).to(rows.dtype)

    def _unpacked(self, rows: torch.Tensor) -> torch.Tensor:
        return (rows @ self.weight.to(rows.dtype).T) * self.scale


def quantize_int8(module: nn.Module, dtype: torch.dtype) -> None:
    """Replaces every linear map inside `module` in place, freeing its float weights. Raises UsageError."""
    for name, parameter in module.named_parameters():
        if parameter.dim() >= 3:
            raise UsageError(f"--quantize int8 cannot do fused experts yet ({name}): use --quantize none here")
    for parent in list(module.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, nn.Linear):
                setattr(parent, name, Int8Linear(child.weight, child.bias, dtype))
            elif isinstance(child, Conv1D):
                setattr(parent, name, Int8Linear(child.weight.T, child.bias, dtype))


def check_quantization(quantization: str, device: torch.device) -> None:
    """Raises UsageError when blocks on `device` cannot be quantized so."""
    if quantization not in QUANTIZATIONS:
        raise UsageError(f"--quantize {quantization} is not built yet: use one of {', '.join(QUANTIZATIONS)}")
    if quantization == "int8" and device.type != "cpu":
        raise UsageError(f"--quantize int8 on {device} comes in a later version: use --quantize none, or --device cpu")
