"""Names of tensors to parts of a model."""

from __future__ import annotations

import pytest

from shared.checkpoint.tensor_names import block_of, is_of
from shared.types import BlockRange


@pytest.mark.parametrize(
    ("name", "block"),
    [
        ("model.layers.12.mlp.experts.3.up_proj.weight", 12),
        ("transformer.h.0.attn.c_attn.weight", 0),
        ("h.7.self_attention.query_key_value.bias", 7),
        ("gpt_neox.layers.5.attention.rotary_emb.inv_freq", 5),
        ("model.decoder.layers.1.fc1.weight", 1),
        ("transformer.blocks.31.norm_1.weight", 31),
        ("model.embed_tokens.weight", None),
        ("word_embeddings_layernorm.bias", None),
        ("lm_head.weight", None),
    ],
)
def test_block_of(name: str, block: int | None) -> None:
    assert block_of(name) == block
    assert is_of(BlockRange(0, 40), name) == (block is not None)


@pytest.mark.parametrize(
    ("name", "ends"),
    [
        ("model.norm.weight", True),
        ("transformer.wpe.weight", True),
        ("model.layers.61.embed_tokens.weight", False),  # DeepSeek's draft layer, past the last block
    ],
)
def test_ends(name: str, ends: bool) -> None:
    assert is_of("ends", name) == ends
