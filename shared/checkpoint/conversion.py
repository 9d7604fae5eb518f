"""`python -m shared.checkpoint.conversion FILE.gguf FOLDER`: writes the model of a GGUF file as safetensors.

A program of its own, run by `gguf.py`. Errors end it with a last line on stderr that says why; it ends at once when
its standard input does, so that it never outlives the process that wants the model.
"""

from __future__ import annotations

import os
import sys
import threading
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

SHARD_SIZE = "64MB"  # small, so that a range of blocks has shards of its own


def convert(path: Path, folder: Path) -> None:
    """Weights in bfloat16 (what the quantized values dequantize to), tokenizer with its chat template, end tokens."""
    tokenizer: Any = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
    tokenizer.save_pretrained(folder)
    model: Any = AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name, dtype=torch.bfloat16)
    _forget_quantization(model)
    model.generation_config = _generation_config(model, tokenizer)
    model.save_pretrained(folder, max_shard_size=SHARD_SIZE)


def _forget_quantization(model: Any) -> None:
    """The weights are plain by now, but transformers would write that they are not."""
    model.hf_quantizer = None
    model.is_quantized = False
    del model.config.quantization_config


def _generation_config(model: Any, tokenizer: Any) -> GenerationConfig:
    ends = {model.config.eos_token_id, tokenizer.eos_token_id} - {None}
    return GenerationConfig(
        bos_token_id=model.config.bos_token_id,
        eos_token_id=sorted(ends) if len(ends) > 1 else next(iter(ends), None),
        pad_token_id=tokenizer.pad_token_id,
    )


def end_with_input() -> None:
    """Waits without Python's lock on the stream, which the interpreter would miss at its own end."""
    os.read(sys.stdin.fileno(), 1)
    os._exit(1)


if __name__ == "__main__":
    threading.Thread(target=end_with_input, daemon=True).start()
    convert(Path(sys.argv[1]), Path(sys.argv[2]))
