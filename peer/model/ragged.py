"""Many sessions in one forward: their tokens lie one after the other, as (1, all tokens, hidden).

Everything but attention works on each token by itself, so it reads the weights once for all. Attention runs session by
session, over that session's own keys and values: transformers lets a model's attention function be replaced by name.
The method is Orca's selective batching (Yu et al., "Orca: A Distributed Serving System for Transformer-Based Generative
Models", OSDI 2022).
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn.functional import scaled_dot_product_attention
from transformers import PreTrainedModel
from transformers.cache_utils import Cache
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from peer.model.cache import SessionCache

_NAME = "corolla_ragged"
_EAGER_ONLY = ("softcap", "s_aux")  # arguments of attention that torch's fused kernel does not know


@dataclass(frozen=True, slots=True)
class Part:
    """One session's share of a forward: (tokens, hidden) at positions from `position`."""

    hidden: torch.Tensor
    cache: SessionCache
    position: int


class RaggedCache(Cache):
    """The caches of the sessions of one forward, which see their own tokens only."""

    def __init__(self, caches: Sequence[SessionCache], tokens: Sequence[int], *, direct: bool) -> None:
        """`direct`: the family's attention takes keys and values just as `update` returns them (latent ones do not)."""
        super().__init__(layers=list(caches[0].layers))
        self.direct = direct
        self.returned: torch.Tensor | None = None
        self._caches = caches
        self._tokens = list(tokens)
        self._kept: list[tuple[torch.Tensor, torch.Tensor]] = []
        self._masks: dict[tuple[int, int, int | None], torch.Tensor] = {}

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, layer_idx: int, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Writes each session's rows of (1, heads, all tokens, dim) behind its own, and keeps what it may attend to."""
        keys, values = key_states.split(self._tokens, 2), value_states.split(self._tokens, 2)
        self._kept = [cache.update(k, v, layer_idx) for cache, k, v in zip(self._caches, keys, values, strict=True)]
        if self.direct:
            return key_states, value_states  # attention asks for `kept` instead
        whole_keys, whole_values = (
            states[0] if len(states) == 1 else torch.cat(states, 2) for states in zip(*self._kept, strict=True)
        )
        self.returned = whole_keys
        return whole_keys, whole_values

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Part of transformers' interface; positions are told, so nothing is counted from here."""
        return 0

    def shares(
        self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor
    ) -> list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
        """Queries, keys and values of each session: (1, heads, tokens, dim), and two (1, heads, length, dim)."""
        queries = query.split(self._tokens, 2)
        if self.direct:
            return [(q, k, v) for q, (k, v) in zip(queries, self._kept, strict=True)]
        lengths = [keys.shape[2] for keys, _ in self._kept]
        return list(zip(queries, key.split(lengths, 2), value.split(lengths, 2), strict=True))

    def mask(self, tokens: int, length: int, window: int | None, like: torch.Tensor) -> torch.Tensor:
        """(tokens, length): 0 where the last `tokens` of `length` positions may look, -inf elsewhere."""
        found = self._masks.get((tokens, length, window))
        if found is None:
            keys = torch.arange(length, device=like.device)
            queries = keys[length - tokens :, None]
            hidden = keys > queries
            if window is not None:
                hidden |= keys <= queries - window
            found = torch.zeros(tokens, length, dtype=like.dtype, device=like.device)
            self._masks[tokens, length, window] = found.masked_fill_(hidden, float("-inf"))
        return self._masks[tokens, length, window]

    def window(self, layer_idx: int) -> int | None:
        """How far the attention of this block reaches; None for all the way."""
        first = self._caches[0]
        return first.layers[layer_idx - first.blocks.start].window


def can_be_ragged(model: PreTrainedModel) -> bool:
    """True for families whose attention can be replaced, and reaches over all that is behind or a sliding window."""
    kinds: list[str] = getattr(model.config, "layer_types", None) or []
    return bool(model._supports_attention_backend) and "chunked_attention" not in kinds


def use_ragged_attention(model: PreTrainedModel) -> None:
    """From now on `model` runs over a RaggedCache, given as `past_key_values` and as `ragged`."""
    model.set_attn_implementation(_NAME)


def ragged_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    *,
    ragged: RaggedCache,
    scaling: float | None = None,
    **others: Any,
) -> tuple[torch.Tensor, None]:
    """transformers' attention interface: (1, heads, all tokens, dim) to (1, all tokens, heads, dim)."""
    if key is ragged.returned:
        ragged.direct = True
    attend = _family_attention(module, scaling, others) or _fused_attention(scaling)
    window = ragged.window(module.layer_idx)  # pyright: ignore[reportArgumentType]
    outputs = []
    for q, k, v in ragged.shares(query, key, value):
        tokens, length = q.shape[2], k.shape[2]
        mask = None if tokens == 1 else ragged.mask(tokens, length, window, q)
        outputs.append(attend(q, k, v, mask))
    return (outputs[0] if len(outputs) == 1 else torch.cat(outputs, 1)), None


Attend = Callable[[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor | None], torch.Tensor]


def _fused_attention(scaling: float | None) -> Attend:
    def attend(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
        _, heads, tokens, dim = q.shape
        kv_heads = k.shape[1]
        if heads == kv_heads:
            return scaled_dot_product_attention(q, k, v, mask, scale=scaling).transpose(1, 2)
        # Queries of one group of heads look at the same keys: as rows of one head they need no copies of these.
        grouped = q.reshape(1, kv_heads, heads // kv_heads * tokens, dim)
        wide = None if mask is None else mask.repeat(heads // kv_heads, 1)
        output = scaled_dot_product_attention(grouped, k, v, wide, scale=scaling)
        return output.view(1, heads, tokens, -1).transpose(1, 2)

    return attend


def _family_attention(module: torch.nn.Module, scaling: float | None, others: dict[str, Any]) -> Attend | None:
    """The family's own attention where it computes more than the fused kernel does; else None."""
    if not any(others.get(name) is not None for name in _EAGER_ONLY):
        return None
    eager = sys.modules[type(module).__module__].eager_attention_forward
    kept = {name: value for name, value in others.items() if name != "is_causal"}

    def attend(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
        wide = None if mask is None else mask[None, None]
        return eager(module, q, k, v, wide, scaling=scaling, **kept)[0]

    return attend


ALL_ATTENTION_FUNCTIONS.register(_NAME, ragged_attention)
