"""The ends of a model: what lies before its first block and after its last. The gateway holds them.

Both run the family's own forward with no blocks, so that scaled embeddings, soft caps and logit scales are its own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal, cast

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING

from gateway.generation.mapped_embedding import MappedEmbedding, drop_matrix, embedding_tensor
from shared.anatomy import (
    config_of_blocks,
    context_length,
    core_of,
    core_path,
    embedding_name,
    layers_name,
    nothing_after,
    nothing_before,
    takes_position_ids,
    variant,
)
from shared.checkpoint.tensor_names import is_of
from shared.errors import UsageError
from shared.few_rows import speed_up_decoding
from shared.freed_memory import return_freed_memory
from shared.int8 import Int8Linear
from shared.partial_model import load_partial, map_tensor, read_config, stored_names

HeadWeights = Literal["none", "int8"]
"""How the head's matrix is quantized."""


class Ends:
    """Embedding, final norm and head of one model. One thread at a time may run them."""

    def __init__(
        self, model: PreTrainedModel, dtype: torch.dtype, device: torch.device, head: HeadWeights = "none"
    ) -> None:
        """`model` is a causal language model without blocks, whose `head` is quantized so."""
        self.numerics = f"{dtype} {device.type} {head} {torch.__version__}"
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
        self._finisher = variant(core, (), config, nothing_before(core))
        self._positions = takes_position_ids(core)

    @classmethod
    def load(cls, directory: Path, *, dtype: torch.dtype, device: torch.device, head: HeadWeights = "none") -> Ends:
        """Reads the final norm and the head, and maps the embedding. A tied head is the embedding, read once.

        Raises UnsupportedFamily, CheckpointError and UsageError (an int8 head on a GPU).
        """
        if head == "int8" and device.type != "cpu":
            raise UsageError(f"--head int8 is for a CPU, and this gateway computes on {device}: use --head none")
        config = read_config(directory)
        tied = bool(config.tie_word_embeddings)
        embedding = embedding_tensor(stored_names(directory, _is_of_ends), tied=tied)
        model = load_partial(
            cast(type[PreTrainedModel], MODEL_FOR_CAUSAL_LM_MAPPING[type(config)]),
            config,
            directory,
            wanted=lambda name: _is_of_ends(name) and (tied or name != embedding),
            remove=_remove_blocks if tied else _remove_blocks_and_embedding,
            dtype=dtype,
            device=device,
        )
        _change_embedding(model, lambda own: MappedEmbedding(own, map_tensor(directory, embedding)))
        if head == "int8":
            _quantize_head(model, dtype)
        speed_up_decoding(model)
        return cls(model, dtype, device, head)

    def embed(self, ids: list[int], position: int) -> torch.Tensor:
        """Token ids at positions from `position` to the first block's input, (tokens, hidden)."""
        return self.embed_each(ids, range(position, position + len(ids)))

    @torch.inference_mode()
    def embed_each(self, ids: Sequence[int], positions: Sequence[int]) -> torch.Tensor:
        """Tokens of any sessions, each at a position of its own, to the first block's input, (tokens, hidden)."""
        places: dict[str, Any] = {}
        if self._positions:
            places["position_ids"] = torch.tensor(positions, device=self.device)[:, None]
        input_ids = torch.tensor(ids, device=self.device)[:, None]  # each token is a sequence of its own
        return self._embedder(input_ids=input_ids, use_cache=False, **places).last_hidden_state[:, 0]

    @torch.inference_mode()
    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """The last block's output, (rows, hidden), to float32 scores, (rows, vocabulary)."""
        rows = hidden.to(self.device, self.dtype)[None]
        return self._head(inputs_embeds=rows, use_cache=False).logits[0].float()

    @torch.inference_mode()
    def final(self, hidden: torch.Tensor) -> torch.Tensor:
        """The last block's output, (rows, hidden), to what the head is given, in float32, (rows, its width)."""
        rows = hidden.to(self.device, self.dtype)[None]
        return self._finisher(inputs_embeds=rows, use_cache=False).last_hidden_state[0].float()


def _is_of_ends(name: str) -> bool:
    return is_of("ends", name)


def _remove_blocks(model: PreTrainedModel) -> None:
    core = core_of(model)
    setattr(core, layers_name(core), nn.ModuleList())


def _remove_blocks_and_embedding(model: PreTrainedModel) -> None:
    _remove_blocks(model)
    core = core_of(model)
    drop_matrix(getattr(core, embedding_name(core)))


def _change_embedding(model: PreTrainedModel, change: Callable[[nn.Embedding], nn.Module]) -> None:
    core = core_of(model)
    name = embedding_name(core)
    setattr(core, name, change(getattr(core, name)))


def _quantize_head(model: PreTrainedModel, dtype: torch.dtype) -> None:
    head = model.get_output_embeddings()
    assert isinstance(head, nn.Linear)
    model.set_output_embeddings(Int8Linear(head.weight, head.bias, dtype))
    del head
    return_freed_memory()
