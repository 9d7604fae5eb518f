"""Weight-only int8 on a CPU: a byte a weight, one scale an output channel, activations as they are.

Two ways to the same product, since what is fastest depends on the rows (docs/quantization.md has the figures): torch's
packed kernel for a few, and for more a copy of the weights in a wider dtype, a tile of outputs at a time. The kernel is
fast for bfloat16 activations alone, and so are wide copies where the processor multiplies bfloat16 itself: there both
round activations and results to bfloat16, so that a row's result differs with the number of rows by up to 2⁻⁸ of its
size, and not otherwise with the rows beside it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from torch.nn.functional import linear

_LOAD = 16  # inputs that the packed kernel reads at once, by loads that fault where a row is not aligned
_TILE_WEIGHTS = 1 << 22  # 8 MB of bfloat16, which stay in a processor's cache between widening and product


class Int8Linear(nn.Module):
    """A linear map with int8 weights (out, in) and scales (out), a bfloat16 number each, so exact in every dtype."""

    weight: torch.Tensor
    narrow_scale: torch.Tensor
    scale: torch.Tensor
    bias: torch.Tensor | None

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None, dtype: torch.dtype) -> None:
        """Quantizes `weight` (out, in), tile by tile; the bias is added in `dtype`."""
        super().__init__()
        levels, scale = quantize_rows(weight)
        self.register_buffer("weight", levels)
        self.register_buffer("narrow_scale", scale)
        self.register_buffer("scale", scale.float())
        self.register_buffer("bias", None if bias is None else bias.to(dtype))
        self.wide = wide_dtype(_capabilities())
        self.few_rows = 0 if weight.shape[1] % _LOAD else 8 if self.wide == torch.bfloat16 else 16
        """Up to here the packed kernel is faster. It reads past a matrix whose inputs are no multiple of its loads."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(…, in) to (…, out), in the dtype of `x`."""
        rows = x.reshape(-1, x.shape[-1])
        product = self._packed(rows) if rows.shape[0] <= self.few_rows else self._widened(rows)
        if self.bias is not None:
            product = product + self.bias
        return product.view(*x.shape[:-1], -1)

    def _packed(self, rows: torch.Tensor) -> torch.Tensor:
        narrow = rows.bfloat16().contiguous()
        if narrow.data_ptr() % (_LOAD * narrow.itemsize):
            narrow = narrow.clone()
        return torch.ops.aten._weight_int8pack_mm(narrow, self.weight, self.narrow_scale).to(rows.dtype)

    def _widened(self, rows: torch.Tensor) -> torch.Tensor:
        """Never the whole matrix at once: a head of 128k x 8192 would be 2 GB in bfloat16."""
        wide = rows.to(self.wide)
        outputs = _rows_of_a_tile(self.weight)
        tiles = zip(self.weight.split(outputs), self.scale.split(outputs), strict=True)
        products = [(linear(wide, levels.to(self.wide)) * scale).to(rows.dtype) for levels, scale in tiles]
        return products[0] if len(products) == 1 else torch.cat(products, dim=1)


@torch.no_grad()
def quantize_rows(weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """(rows, n) to int8 levels (rows, n) and the bfloat16 scale (rows) that each row's are multiplied by."""
    levels = torch.empty(weight.shape, dtype=torch.int8, device=weight.device)
    scale = torch.empty(weight.shape[0], dtype=torch.bfloat16, device=weight.device)
    rows = _rows_of_a_tile(weight)
    for part, into, scale_into in zip(weight.split(rows), levels.split(rows), scale.split(rows), strict=True):
        exact = part.float()
        scale_into.copy_((exact.abs().amax(dim=1) / 127).clamp_(min=1e-12))
        into.copy_((exact / scale_into.float()[:, None]).round_().clamp_(-127, 127))
    return levels, scale


def wide_dtype(capabilities: Mapping[str, Any]) -> torch.dtype:
    """What many rows are multiplied in, on a processor with these `torch.cpu.get_capabilities()`."""
    return torch.bfloat16 if capabilities.get("avx512_bf16") or capabilities.get("amx_bf16") else torch.float32


def _capabilities() -> Mapping[str, Any]:
    ask = getattr(torch.cpu, "get_capabilities", None)  # newer than the oldest torch that is allowed
    return ask() if ask else {}


def _rows_of_a_tile(weight: torch.Tensor) -> int:
    return max(1, _TILE_WEIGHTS // weight.shape[1])
