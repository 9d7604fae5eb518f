"""A token embedding whose rows are read from the mapped checkpoint file: its matrix is never in memory as a whole."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import nn

from shared.errors import CheckpointError

_EMBEDDINGS = ("embed_tokens.weight", "word_embeddings.weight", "wte.weight", "embed_in.weight")
_HEADS = ("lm_head.weight", "embed_out.weight")


def embedding_tensor(names: Iterable[str], *, tied: bool) -> str:
    """Which of the tensors of the ends, by their names in the checkpoint, is the token embedding.

    A checkpoint of a model whose head is `tied` to it may name it as the head. Raises CheckpointError.
    """
    names = list(names)
    for ending in (*_EMBEDDINGS, *(_HEADS if tied else ())):
        if found := [name for name in names if f".{name}".endswith(f".{ending}")]:
            return found[0]
    raise CheckpointError("the model's weights hold no token embedding: fetch the model again")


def drop_matrix(embedding: nn.Embedding) -> None:
    """Leaves the embedding without rows; what else it has or does stays."""
    embedding.weight = nn.Parameter(embedding.weight[:0].detach(), requires_grad=False)
    embedding.padding_idx = None  # of use in training alone, and no row of what is left


class MappedEmbedding(nn.Module):
    """The family's own embedding module over the rows that are asked for; it may scale them, for example."""

    def __init__(self, embedding: nn.Embedding, mapped: torch.Tensor) -> None:
        """Takes the matrix out of `embedding`; `mapped` is the stored one. Raises CheckpointError for another shape."""
        super().__init__()
        if mapped.shape != (embedding.num_embeddings, embedding.embedding_dim):
            raise CheckpointError(f"the embedding's shape {tuple(mapped.shape)} does not fit config.json")
        drop_matrix(embedding)
        self._embedding = embedding
        self._mapped = mapped

    @property
    def weight(self) -> torch.Tensor:
        """Without rows; Llama 4 asks on which device it is."""
        return self._embedding.weight

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        """Ids (…) to rows (…, hidden) in the dtype and on the device of the model. Reads from disk what is new."""
        rows = self._mapped[ids.reshape(-1).cpu()].to(self.weight.device, self.weight.dtype)
        places = torch.arange(len(rows), device=rows.device).view(ids.shape)
        return torch.func.functional_call(self._embedding, {"weight": rows}, (places,))
