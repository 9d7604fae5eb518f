"""Linear maps for a few rows at a time. On a CPU, decoding is a walk through all weights, and how it is done matters.

Measured in float32 with MKL on AVX-512 (benchmarks/products.py). Times of `linear(x, W)`, W of (out, in) in rows:
- With up to 1,024 inputs, `(W @ x.T).T` takes 0.5 to 0.7 of the time for 2 to 4 rows and no more for up to 8, since all
  rows share one pass through the weights. One row alone is fastest as two.
- With up to 2,048 inputs and fewer outputs the same holds for one and two rows.
- With more, `linear` is faster; then a matrix with more outputs than inputs that lies column by column serves a single
  row in 0.8 of the time.
In bfloat16, or for many rows, none of this gains.
"""

from __future__ import annotations

import torch
from torch import nn

_NARROW_INPUTS = 1024
_MEDIUM_INPUTS = 2048


class FewRowsLinear(nn.Linear):
    """`nn.Linear` that multiplies up to `few_rows` rows from the other side; float32 on a CPU."""

    few_rows = 0

    @classmethod
    def of(cls, module: nn.Linear, few_rows: int) -> FewRowsLinear:
        """The same map over the same parameters."""
        twin = cls(module.in_features, module.out_features, module.bias is not None, device="meta")
        twin.weight, twin.bias = module.weight, module.bias
        twin.few_rows = few_rows
        return twin

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """(…, in) to (…, out)."""
        rows = input.reshape(-1, self.in_features)
        count = rows.shape[0]
        if not 0 < count <= self.few_rows:
            return super().forward(input)
        product = from_the_other_side(rows, self.weight)
        if self.bias is not None:
            product += self.bias
        return product.view(*input.shape[:-1], -1)


def from_the_other_side(rows: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """`linear(rows, weight)` as (W @ x.T).T, one row as two: (rows, in) and (out, in) to (rows, out)."""
    count = rows.shape[0]
    columns = (rows if count > 1 else rows.repeat(2, 1)).T
    return (weight @ columns)[:, :count].T.contiguous()


def speed_up_decoding(model: nn.Module) -> None:
    """Changes the float32 linear maps inside `model` that gain by it, in place; values and ties stay as they are."""
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if type(child) is not nn.Linear or child.weight.device.type != "cpu" or child.weight.dtype != torch.float32:
                continue
            if few_rows := _few_rows(child):
                setattr(parent, name, FewRowsLinear.of(child, few_rows))
            elif child.out_features > child.in_features:
                child.weight.data = child.weight.data.T.contiguous().T


def _few_rows(module: nn.Linear) -> int:
    if module.in_features <= _NARROW_INPUTS:
        return 8
    return 2 if module.in_features <= _MEDIUM_INPUTS and module.out_features <= module.in_features else 0
