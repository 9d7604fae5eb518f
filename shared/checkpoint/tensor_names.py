"""Which part of a model a tensor belongs to, by its name in the checkpoint.

The names are those of all families that Corolla splits: `model.layers.3.…`, `transformer.h.3.…`, `h.3.…`,
`gpt_neox.layers.3.…`, `model.decoder.layers.3.…`, `transformer.blocks.3.…`.
Buffers that old checkpoints store (`attn.bias` masks, `rotary_emb.inv_freq`) go with the block that their name says.
What has no block is of the ends: embedding, final norm, head. A tied head is often not stored at all.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Literal

from shared.types import BlockRange

Part = BlockRange | Literal["ends"]
"""What one process loads of a model: a range of blocks, or what lies before and after all blocks."""

_BLOCK = re.compile(r"(?:^|\.)(?:layers|h|blocks)\.(\d{1,6})\.")


@lru_cache(1 << 17)  # DeepSeek's 90,000 names are asked for once a block
def block_of(name: str) -> int | None:
    """Index of the transformer block that the tensor belongs to; None for those of the ends."""
    match = _BLOCK.search(name)
    return int(match[1]) if match else None


def is_of(part: Part, name: str) -> bool:
    """True when a process that loads `part` needs the tensor.

    Blocks past the model's depth, which DeepSeek's checkpoints use for a draft model, belong to no part.
    """
    block = block_of(name)
    if isinstance(part, BlockRange):
        return block is not None and part.start <= block < part.end
    return block is None
