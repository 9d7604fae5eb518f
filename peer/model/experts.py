"""Fused experts: their matrices lie in one parameter (experts, …, …), which no linear map holds.

What stands in the parameter's place gives one expert's matrix at a time, widened, when the family's forward asks for
it. Their products are in the peer's dtype, so the tokens that others send to an expert change no token's result.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn
from transformers.models.llama4.modeling_llama4 import Llama4TextExperts

from peer.model.nf4 import nf4_parameter, nf4_values
from shared.errors import UsageError
from shared.int8 import quantize_rows


class Int8Matrices(nn.Module):
    """int8 levels (experts, rows, n) with a bfloat16 scale a row."""

    levels: torch.Tensor
    scale: torch.Tensor

    def __init__(self, matrices: torch.Tensor, dtype: torch.dtype) -> None:
        """Quantizes `matrices` (experts, rows, n), one at a time."""
        super().__init__()
        levels, scales = zip(*(quantize_rows(matrix) for matrix in matrices), strict=True)
        self.register_buffer("levels", torch.stack(levels))
        self.register_buffer("scale", torch.stack(scales))
        self._dtype = dtype

    def __getitem__(self, expert: torch.Tensor | int) -> torch.Tensor:
        """One expert's matrix (rows, n)."""
        return self.levels[expert].to(self._dtype) * self.scale[expert].to(self._dtype)[:, None]


class Nf4Matrices(nn.Module):
    """An nf4 matrix (rows, n) for each expert."""

    def __init__(self, matrices: torch.Tensor, device: torch.device) -> None:
        """Quantizes `matrices` (experts, rows, n) on `device`, one at a time."""
        super().__init__()
        self.experts = nn.ParameterList(nf4_parameter(matrix).to(device) for matrix in matrices)

    def __getitem__(self, expert: torch.Tensor | int) -> torch.Tensor:
        """One expert's matrix (rows, n), in the dtype that it was quantized from."""
        return nf4_values(self.experts[int(expert)])


class _Llama4Experts(nn.Module):
    """`Llama4TextExperts`, whose own forward multiplies all experts at once, one by one."""

    def __init__(self, experts: Llama4TextExperts) -> None:
        super().__init__()
        self.num_experts = experts.num_experts
        self.gate_up_proj = experts.gate_up_proj
        self.down_proj = experts.down_proj
        self.act_fn = experts.act_fn

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """(experts * tokens, hidden) to the same; all tokens for each expert, zeros where it was not chosen."""
        every = hidden_states.view(self.num_experts, -1, hidden_states.shape[-1])
        output = torch.zeros_like(every)
        for expert, rows in enumerate(every):
            chosen = rows.any(dim=-1)
            if chosen.any():  # zeros stay zeros: there is no bias
                gate, up = (rows[chosen] @ self.gate_up_proj[expert]).chunk(2, dim=-1)
                output[expert, chosen] = (up * self.act_fn(gate)) @ self.down_proj[expert]
        return output.view_as(hidden_states)


def is_fused(module: nn.Module) -> bool:
    """Whether `module` itself holds matrices in parameters of more than two dimensions."""
    return any(parameter.dim() > 2 for parameter in module.parameters(recurse=False))


def quantized_experts(
    experts: nn.Module, matrices: Callable[[torch.Tensor], nn.Module], quantization: str
) -> nn.Module:
    """What stands for `experts`, whose fused parameters `matrices` replaces.

    The model's configuration must say `_experts_implementation = "eager"`. Raises UsageError for experts that a forward
    does not ask for one by one.
    """
    if not isinstance(experts, Llama4TextExperts) and not _indexes_experts(experts):
        raise UsageError(f"--quantize {quantization} cannot do {type(experts).__name__} yet: use --quantize none here")
    for name, parameter in list(experts.named_parameters(recurse=False)):
        if parameter.dim() > 2:
            delattr(experts, name)
            setattr(experts, name, matrices(parameter.detach()))
    return _Llama4Experts(experts) if isinstance(experts, Llama4TextExperts) else experts


def _indexes_experts(experts: nn.Module) -> bool:
    """True for what transformers' `use_experts_implementation` decorates: its eager forward indexes the parameters."""
    return hasattr(type(experts), "_apply_gate")
