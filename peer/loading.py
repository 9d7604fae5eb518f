"""From settings to loaded blocks: which range, whether it fits, how fast it runs. Blocking; run it beside the loop."""

from __future__ import annotations

import logging
import statistics
import time
from collections.abc import Sequence

import torch

from peer.compute import Compute
from peer.model.blocks import Blocks
from peer.placement import blocks_that_fit, choose_blocks
from peer.settings import PeerSettings
from shared.checkpoint import Checkpoint
from shared.checkpoint.progress import show_progress
from shared.device import free_memory
from shared.errors import NotEnoughMemory, UsageError
from shared.types import BlockRange

logger = logging.getLogger(__name__)

WARM_UP_TOKENS = 64
MEASURED_STEPS = 9


def place(settings: PeerSettings, checkpoint: Checkpoint, compute: Compute, held: Sequence[BlockRange]) -> BlockRange:
    """The blocks that this peer takes. Raises UsageError for a range outside the model, NotEnoughMemory."""
    if settings.blocks:
        if settings.blocks.end > checkpoint.blocks:
            raise UsageError(
                f"--blocks {settings.blocks}: {checkpoint.id} has {checkpoint.blocks} blocks, so say a range "
                f"within 0:{checkpoint.blocks}"
            )
        return settings.blocks
    count = settings.num_blocks or _count_that_fits(settings, checkpoint, compute)
    return choose_blocks(checkpoint.blocks, count, held)


def check_memory(settings: PeerSettings, checkpoint: Checkpoint, compute: Compute, blocks: BlockRange) -> None:
    """Raises NotEnoughMemory when blocks and cache are more than what is free."""
    needed = checkpoint.bytes_of(blocks, compute.element_bytes)
    cache = settings.cache_tokens * cache_bytes_per_token(checkpoint, compute) * len(blocks)
    free = free_memory(compute.device)
    if needed + cache > free:
        raise NotEnoughMemory(
            f"blocks {blocks} of {checkpoint.id} take {_gb(needed)} and {settings.cache_tokens} cache tokens "
            f"{_gb(cache)}, but {_gb(free)} are free: pass fewer --blocks, fewer --cache-tokens or --quantize int8"
        )


def load_blocks(checkpoint: Checkpoint, blocks: BlockRange, compute: Compute) -> Blocks:
    """Fetch what is missing and load it. Raises CheckpointError, UsageError."""
    with checkpoint.prepare(blocks) as directory, show_progress(f"Loading blocks {blocks} of {checkpoint.id}"):
        return Blocks.load(
            directory, blocks, dtype=compute.dtype, device=compute.device, quantization=compute.quantization
        )


def measure(blocks: Blocks) -> float:
    """Tokens a second that one session alone gets out of these blocks."""
    cache = blocks.new_cache(blocks.range, WARM_UP_TOKENS + MEASURED_STEPS)
    blocks.forward(torch.zeros(WARM_UP_TOKENS, blocks.hidden_size), cache, 0)
    token, times = torch.zeros(1, blocks.hidden_size), []
    for step in range(MEASURED_STEPS):
        started = time.perf_counter()
        blocks.forward(token, cache, WARM_UP_TOKENS + step).cpu()
        times.append(time.perf_counter() - started)
    return 1 / statistics.median(times)


def cache_bytes_per_token(checkpoint: Checkpoint, compute: Compute) -> int:
    """Bytes of keys and values of one token in one block, at most, as the configuration tells before loading."""
    config = checkpoint.config
    heads = config.get("num_attention_heads") or config.get("n_head") or config.get("n_heads") or 1
    kv_heads = config.get("num_key_value_heads") or heads
    head_dim = config.get("head_dim") or checkpoint.hidden_size // heads
    return 2 * kv_heads * head_dim * compute.dtype.itemsize


def _count_that_fits(settings: PeerSettings, checkpoint: Checkpoint, compute: Compute) -> int:
    sizes = [checkpoint.bytes_of(BlockRange(b, b + 1), compute.element_bytes) for b in range(checkpoint.blocks)]
    cache = settings.cache_tokens * cache_bytes_per_token(checkpoint, compute)
    free = free_memory(compute.device)
    count = blocks_that_fit(sizes, cache, free)
    if not count:
        raise NotEnoughMemory(
            f"one block of {checkpoint.id} takes {_gb(max(sizes))} and its cache {_gb(cache)}, but four fifths of "
            f"{_gb(free)} of free memory are less: pass fewer --cache-tokens or --quantize int8"
        )
    return count


def _gb(size: int) -> str:
    return f"{size / 1e9:.2f} GB"
