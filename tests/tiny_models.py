"""Tiny random checkpoints on disk, of any family: real weights files, real tokenizer, nothing downloaded.

Weights are drawn wider than a fresh model's, so that hidden states, biases and norms all matter and greedy decoding
does not stand still. The tokenizer is byte-level: ids 0-255 are bytes, then the three special tokens below.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from torch import nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    GenerationConfig,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

SPECIAL_TOKENS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
START_ID, END_ID = 257, 258  # <|im_start|>, <|im_end|>
VOCAB_SIZE = 256 + len(SPECIAL_TOKENS)
CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
WINDOW = 8  # tokens; small, so that short prompts reach past it

_MOE = {"num_experts_per_tok": 2, "moe_intermediate_size": 32}
_DEEPSEEK = {
    "q_lora_rank": 24,
    "kv_lora_rank": 16,
    "qk_rope_head_dim": 8,
    "qk_nope_head_dim": 16,
    "v_head_dim": 16,
    "n_routed_experts": 4,
    "n_shared_experts": 1,
    "first_k_dense_replace": 1,
    "num_key_value_heads": 4,
    "n_group": 2,
    "topk_group": 1,
    "head_dim": 8,
    **_MOE,
}
_GPT2_NAMES = {"n_embd": 64, "n_head": 4, "n_inner": 128}

_FAMILY_CONFIG: dict[str, dict[str, Any]] = {
    "bloom": {"hidden_size": 64, "n_head": 4},
    "cohere2": {"sliding_window": WINDOW, "logit_scale": 0.25},
    "deepseek_v2": {**_DEEPSEEK, "topk_method": "group_limited_greedy"},
    "deepseek_v3": _DEEPSEEK,
    "falcon": {"hidden_size": 64, "num_attention_heads": 4, "num_kv_heads": 2, "ffn_hidden_size": 128},
    "gemma2": {"sliding_window": WINDOW, "query_pre_attn_scalar": 16},
    "gemma3_text": {"sliding_window": WINDOW, "query_pre_attn_scalar": 16},
    "gpt2": _GPT2_NAMES,
    "gpt_oss": {
        "sliding_window": WINDOW,
        "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
        "num_local_experts": 4,
        "num_experts_per_tok": 2,
    },
    "gptj": {**_GPT2_NAMES, "rotary_dim": 8},
    "granite": {"embedding_multiplier": 3.0, "logits_scaling": 2.0, "residual_multiplier": 0.7},
    "llama4_text": {
        "num_local_experts": 4,
        "intermediate_size_mlp": 128,
        "interleave_moe_layer_step": 2,
        "attention_chunk_size": WINDOW,
    },
    "mistral": {"sliding_window": WINDOW},
    "mixtral": {"num_local_experts": 4, "num_experts_per_tok": 2},
    "mpt": {"d_model": 64, "n_heads": 4, "expansion_ratio": 2},
    "olmoe": {"num_experts": 4, "num_experts_per_tok": 2},
    "opt": {"ffn_dim": 128, "word_embed_proj_dim": 64},
    "qwen3_moe": {"num_experts": 4, **_MOE},
}
_DEPTH_NAME = {"mpt": "n_layers", "gpt2": "n_layer", "gptj": "n_layer", "bloom": "n_layer"}
_CONTEXT_NAME = {"mpt": "max_seq_len", "gpt2": "n_positions", "gptj": "n_positions", "bloom": "seq_length"}
_USUAL_SHAPE = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
}


def make_tiny_model(
    directory: Path,
    family: str = "llama",
    *,
    blocks: int = 6,
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
    shard_size: str = "200KB",
    context: int = 512,
    **overrides: Any,
) -> Path:
    """Writes a random model of `family` (a `model_type`), its index, shards and tokenizer; returns `directory`.

    `overrides` are fields of the family's configuration, by their own names. Equal arguments give equal files.
    """
    config = tiny_config(family, blocks=blocks, context=context, **overrides)
    model = random_model(config, seed=seed)
    nn.Module.to(model, dtype)
    model.generation_config = GenerationConfig(bos_token_id=START_ID, eos_token_id=END_ID, pad_token_id=0)
    model.save_pretrained(directory, max_shard_size=shard_size)
    byte_tokenizer().save_pretrained(directory)
    return directory


def tiny_config(family: str, *, blocks: int = 6, context: int = 512, **overrides: Any) -> PreTrainedConfig:
    """Configuration of a model with hidden size 64 and a vocabulary of bytes and special tokens."""
    shape = {} if family in (*_DEPTH_NAME, "falcon") else {**_USUAL_SHAPE, "num_hidden_layers": blocks}
    named = {_DEPTH_NAME.get(family, "num_hidden_layers"): blocks}
    named[_CONTEXT_NAME.get(family, "max_position_embeddings")] = context
    tokens = {"vocab_size": VOCAB_SIZE, "bos_token_id": START_ID, "eos_token_id": END_ID, "pad_token_id": 0}
    fields = {**shape, **named, **tokens, **_FAMILY_CONFIG.get(family, {}), **overrides}
    return AutoConfig.for_model(family, **fields)


def random_model(config: PreTrainedConfig, *, seed: int = 0) -> PreTrainedModel:
    """The whole causal model in float32, its weights drawn from `seed`."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
        for parameter in model.parameters():
            _redraw(parameter.data)
    return model.eval()


def _redraw(weight: torch.Tensor) -> None:
    if weight.dim() >= 2:
        weight.normal_(0.0, weight.shape[-1] ** -0.5)
    else:
        weight.add_(torch.randn_like(weight) * 0.1)  # keeps a norm's ones and a bias's zeros near their start


def byte_tokenizer() -> PreTrainedTokenizerFast:
    """Ids 0-255 are the bytes themselves, in the order of byte-level BPE's alphabet; then the special tokens."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={symbol: i for i, symbol in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)  # pyright: ignore[reportAttributeAccessIssue]
    tokenizer.decoder = decoders.ByteLevel()  # pyright: ignore[reportAttributeAccessIssue]
    tokenizer.add_special_tokens(list(SPECIAL_TOKENS))  # ids 256, 257, 258
    end, start, stop = SPECIAL_TOKENS
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token=start, eos_token=stop, pad_token=end)
    fast.chat_template = CHAT_TEMPLATE
    return fast
