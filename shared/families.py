"""Which model families split exactly into block ranges. Judges a configuration alone: no weights, no transformers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from shared.errors import UnsupportedFamily

FAMILIES = (
    "bloom",
    "cohere2",
    "deepseek_v2",
    "deepseek_v3",
    "falcon",
    "gemma",
    "gemma2",
    "gemma3_text",
    "glm4",
    "gpt2",
    "gpt_neox",
    "gpt_oss",
    "gptj",
    "granite",
    "llama",
    "llama4_text",
    "mistral",
    "mixtral",
    "mpt",
    "olmo2",
    "olmoe",
    "opt",
    "phi",
    "phi3",
    "qwen2",
    "qwen3",
    "qwen3_moe",
    "smollm3",
    "stablelm",
    "starcoder2",
)
"""`model_type` of each family whose split forward is tested against the whole model."""


_SHARED_ROPE = ("dynamic", "longrope")
"""Rotary embeddings whose frequencies depend on the longest position in a forward."""


def check_family(config: Mapping[str, Any]) -> None:
    """Raises UnsupportedFamily unless the model of this `config.json` is known to split exactly."""
    family = config.get("model_type")
    if family not in FAMILIES:
        raise UnsupportedFamily(f"models of family {family!r} cannot be split yet; tested are: {', '.join(FAMILIES)}")
    if config.get("scale_attn_by_inverse_layer_idx"):
        raise UnsupportedFamily(f"this {family} scales attention by the block's index, which does not survive a split")
    if _rope_type(config) in _SHARED_ROPE:
        raise UnsupportedFamily(
            f"this {family} has {_rope_type(config)} rotary embeddings, which sessions would change for each other"
        )
    if quantization := config.get("quantization_config"):
        method = quantization.get("quant_method", "unknown") if isinstance(quantization, Mapping) else "unknown"
        raise UnsupportedFamily(f"this checkpoint is stored quantized ({method}); use one in bfloat16 or float32")


def _rope_type(config: Mapping[str, Any]) -> object:
    rope = config.get("rope_parameters") or config.get("rope_scaling")
    return (rope.get("rope_type") or rope.get("type")) if isinstance(rope, Mapping) else None
