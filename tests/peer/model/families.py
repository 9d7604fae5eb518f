"""Every tested family, and variants of some that take another path through their code."""

from typing import Any

from shared.families import FAMILIES

VARIANTS: list[tuple[str, dict[str, Any]]] = [
    *((family, {}) for family in FAMILIES),
    ("falcon", {"alibi": True}),
    ("falcon", {"new_decoder_architecture": True}),
    ("granite", {"tie_word_embeddings": True}),
    ("llama", {"tie_word_embeddings": True, "attention_bias": True}),
    ("opt", {"word_embed_proj_dim": 32, "do_layer_norm_before": False}),
    ("qwen2", {"use_sliding_window": True, "sliding_window": 8, "max_window_layers": 2}),
]
