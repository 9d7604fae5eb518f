"""A tiny llama as a GGUF file, written with the format's own library."""

from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np
from tokenizers import pre_tokenizers

BLOCKS, HIDDEN, INNER, HEADS, KV_HEADS = 2, 32, 64, 4, 2
TEMPLATE = "{% for message in messages %}{{ message['content'] }}<|end|>{% endfor %}"
TOKENS = [*sorted(pre_tokenizers.ByteLevel.alphabet()), "ab", "<|start|>", "<|end|>"]
START_ID, END_ID = 257, 258


def write_tiny_gguf(path: Path, *, seed: int = 0) -> np.ndarray:
    """Returns the embedding, (tokens, hidden), which a conversion must reproduce in bfloat16."""
    draw = np.random.default_rng(seed)
    writer = gguf.GGUFWriter(path, "llama")
    _describe(writer)
    tensors = {name: draw.normal(0.0, 0.1, shape).astype(np.float32) for name, shape in _shapes().items()}
    for name, tensor in tensors.items():
        writer.add_tensor(name, tensor)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return tensors["token_embd.weight"]


def _describe(writer: gguf.GGUFWriter) -> None:
    writer.add_context_length(64)
    writer.add_embedding_length(HIDDEN)
    writer.add_block_count(BLOCKS)
    writer.add_feed_forward_length(INNER)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(10000.0)
    writer.add_vocab_size(len(TOKENS))
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(TOKENS)
    writer.add_token_types([gguf.TokenType.NORMAL] * 257 + [gguf.TokenType.CONTROL] * 2)
    writer.add_token_merges(["a b"])
    writer.add_bos_token_id(START_ID)
    writer.add_eos_token_id(END_ID)
    writer.add_chat_template(TEMPLATE)


def _shapes() -> dict[str, tuple[int, ...]]:
    key_size = HIDDEN * KV_HEADS // HEADS
    block = {
        "attn_norm": (HIDDEN,),
        "attn_q": (HIDDEN, HIDDEN),
        "attn_k": (key_size, HIDDEN),
        "attn_v": (key_size, HIDDEN),
        "attn_output": (HIDDEN, HIDDEN),
        "ffn_norm": (HIDDEN,),
        "ffn_gate": (INNER, HIDDEN),
        "ffn_up": (INNER, HIDDEN),
        "ffn_down": (HIDDEN, INNER),
    }
    blocks = {f"blk.{i}.{name}.weight": shape for i in range(BLOCKS) for name, shape in block.items()}
    return {"token_embd.weight": (len(TOKENS), HIDDEN), **blocks, "output_norm.weight": (HIDDEN,)}
