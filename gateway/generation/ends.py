"""The ends of a model: what lies before its first block and after its last. The gateway holds them.

Both run the family's own forward with no blocks, so that scaled embeddings, soft caps and logit scales are its own.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING

from shared.anatomy import (
    config_of_blocks,
    core_of,
    core_path,
    layers_name,
    nothing_after,
    nothing_before,
    takes_position_ids,
    variant,
)
from shared.checkpoint.tensor_names import is_of
from shared.errors import CheckpointError
from shared.partial_model import load_partial, read_config

_CONTEXT_FIELDS = ("max_position_embeddings", "n_positions", "max_seq_len", "seq_length", "n_ctx")


class Ends:
    """Embedding, final norm and head of one model."""

    def __init__(self, model: PreTrainedModel, dtype: torch.dtype, device: torch.device) -> None:
        """`model` is a causal language model without blocks."""
        self.dtype = dtype
        self.device = device
        self.hidden_size: int = model.config.hidden_size
        self.vocab_size: int = model.config.vocab_size
        self.context_length = context_length(model.config)
        self.parameter_bytes = sum(part.nbytes for part in (*model.parameters(), *model.buffers()))
        core, path = core_of(model), core_path(model)
        config = config_of_blocks(model.config, 0, 0)
        self._embedder = variant(core, (), config, nothing_after(core))
        self._head = variant(model, path, config, nothing_before(core))
        self._positions = takes_position_ids(core)

    @classmethod
    def load(cls, directory: Path, *, dtype: torch.dtype, device: torch.device) -> Ends:
        """Reads the tensors outside the blocks and no others. Raises UnsupportedFamily and CheckpointError."""
        config = read_config(directory)
        model = load_partial(
            cast(type[PreTrainedModel], MODEL_FOR_CAUSAL_LM_MAPPING[type(config)]),
            config,
            directory,
            wanted=partial(is_of, "ends"),
            remove=_remove_blocks,
            dtype=dtype,
            device=device,
        )
        return cls(model, dtype, device)

    @torch.inference_mode()
    def embed(self, ids: list[int], position: int) -> torch.Tensor:
        """Token ids at positions from `position` to the first block's input, (tokens, hidden)."""
        positions: dict[str, Any] = {}
        if self._positions:
            positions["position_ids"] = torch.arange(position, position + len(ids), device=self.device)[None]
        input_ids = torch.tensor([ids], device=self.device)
        return self._embedder(input_ids=input_ids, use_cache=False, **positions).last_hidden_state[0]

    @torch.inference_mode()
    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """The last block's output, (rows, hidden), to float32 scores, (rows, vocabulary)."""
        rows = hidden.to(self.device, self.dtype)[None]
        return self._head(inputs_embeds=rows, use_cache=False).logits[0].float()


def context_length(config: PreTrainedConfig) -> int:
    """Tokens that the model was made for. Raises CheckpointError when its configuration does not say."""
    for name in _CONTEXT_FIELDS:
        value = getattr(config, name, None)
        if isinstance(value, int) and value > 0:
            return value
    raise CheckpointError(f"config.json does not say how long a context may be: it has none of {_CONTEXT_FIELDS}")


def _remove_blocks(model: PreTrainedModel) -> None:
    core = core_of(model)
    setattr(core, layers_name(core), nn.ModuleList())
