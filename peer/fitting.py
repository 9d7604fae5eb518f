"""What fits into a peer's memory: how many blocks, and how much cache beside them. Blocking; run it beside the loop."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from peer.compute import Compute, choose_quantization
from peer.memory import ENOUGH_SESSIONS, LEAST_TOKENS, MemoryLimit, cache_tokens, in_gb
from peer.model.blocks import Blocks
from peer.model.cache import CacheBudget
from peer.placement import blocks_that_fit
from peer.settings import PeerSettings
from shared.anatomy import context_length
from shared.checkpoint import Checkpoint
from shared.device import free_memory, whole_memory
from shared.errors import NotEnoughMemory
from shared.partial_model import read_config
from shared.types import BlockRange

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Fitting:
    """Judges by estimates what to load, and by what was loaded how large the cache is. `limit` is for both together."""

    settings: PeerSettings
    checkpoint: Checkpoint
    compute: Compute
    limit: MemoryLimit

    def count(self) -> int:
        """How many blocks to hold, wherever they lie in the model. Raises NotEnoughMemory when not even one fits."""
        count = self._most()
        if not count:
            raise self._refusal("any one block", self._largest_first()[0], self._cache_bytes(1))
        if self.settings.cache_tokens is None:
            count = min(count, max(1, blocks_that_fit(self._largest_first(), 0, self.limit.for_blocks)))
        return count

    def check(self, blocks: BlockRange) -> None:
        """Raises NotEnoughMemory when blocks and cache will be more than the limit."""
        needed, cache = self._block_bytes(blocks), self._cache_bytes(len(blocks))
        if needed + cache > self.limit.size:
            raise self._refusal(f"blocks {blocks}", needed, cache)

    def quantized(self, quantization: str) -> Fitting:
        """The same for blocks that are quantized so."""
        return replace(self, compute=replace(self.compute, quantization=quantization))

    def fits(self, quantization: str) -> bool:
        """Whether what is asked for fits when it is quantized so: the blocks, so many of them, or else a single one."""
        quantized = self.quantized(quantization)
        if blocks := self.settings.blocks:
            return quantized._block_bytes(blocks) + self._cache_bytes(len(blocks)) <= self.limit.size
        return quantized._most() >= min(self.settings.num_blocks or 1, self.checkpoint.blocks)

    def budget(self, blocks: Blocks) -> CacheBudget:
        """The cache beside blocks that are loaded, from their real shapes. Raises NotEnoughMemory."""
        whole, token_bytes = blocks.range, blocks.cache_bytes(blocks.range, 1)
        left = self.limit.size - blocks.parameter_bytes
        tokens = self.settings.cache_tokens or cache_tokens(left, token_bytes, self._enough_bytes(blocks))
        if max(tokens, self._least_tokens) * token_bytes > left:
            raise self._refusal(f"blocks {whole}", blocks.parameter_bytes, self._least_tokens * token_bytes)
        logger.info(
            "blocks %s take %s, the cache up to %s for %d tokens, of at most %s (%s)",
            whole,
            in_gb(blocks.parameter_bytes),
            in_gb(tokens * token_bytes),
            tokens,
            in_gb(self.limit.size),
            self.limit.why,
        )
        return CacheBudget.of_tokens(tokens, whole, blocks.cache_bytes)

    @property
    def _least_tokens(self) -> int:
        return self.settings.cache_tokens or LEAST_TOKENS

    def _most(self) -> int:
        """How many blocks fit, each with its part of the smallest cache."""
        return blocks_that_fit(self._largest_first(), self._cache_bytes(1), self.limit.size)

    def _largest_first(self) -> list[int]:
        """Bytes of each block of the model: where the first k of these fit, any k blocks do."""
        one_by_one = (BlockRange(block, block + 1) for block in range(self.checkpoint.blocks))
        return sorted((self._block_bytes(block) for block in one_by_one), reverse=True)

    def _block_bytes(self, blocks: BlockRange) -> int:
        weights = self.checkpoint.bytes_of(blocks, 1)
        return math.ceil(weights * self.compute.element_bytes)

    def _cache_bytes(self, blocks: int) -> int:
        """Bytes of the smallest cache over so many blocks, at most, as the configuration tells before loading."""
        elements = _most_token_elements(self.checkpoint.config, self.checkpoint.hidden_size)
        return self._least_tokens * elements * self.compute.dtype.itemsize * blocks

    def _enough_bytes(self, blocks: Blocks) -> int:
        context = context_length(read_config(self.checkpoint.directory))
        return ENOUGH_SESSIONS * blocks.cache_bytes(blocks.range, context)

    def _refusal(self, what: str, blocks_bytes: int, cache_bytes: int) -> NotEnoughMemory:
        return NotEnoughMemory(
            f"{what} of {self.checkpoint.id} take {in_gb(blocks_bytes)} and {self._least_tokens} cache tokens "
            f"{in_gb(cache_bytes)}, but {self.limit.why}: pass fewer --blocks, fewer --cache-tokens, a larger --memory "
            f"or --quantize int8 or nf4"
        )


def _most_token_elements(config: Mapping[str, Any], hidden_size: int) -> int:
    """Numbers that one block keeps of one token, at most: keys and values, or what latent attention makes them from."""
    if config.get("kv_lora_rank"):
        return config["kv_lora_rank"] + config.get("qk_rope_head_dim", 0)
    heads = config.get("num_attention_heads") or config.get("n_head") or config.get("n_heads") or 1
    kv_heads = config.get("num_key_value_heads") or heads
    return 2 * kv_heads * (config.get("head_dim") or hidden_size // heads)


def look_at_memory(settings: PeerSettings, checkpoint: Checkpoint, compute: Compute) -> Fitting:
    """What the peer may hold of the memory that is free now; `--quantize auto` is settled by it."""
    limit = MemoryLimit.of(free_memory(compute.device), whole_memory(compute.device), settings.memory)
    fitting = Fitting(settings, checkpoint, compute, limit)
    quantization = choose_quantization(settings.quantize, fitting.fits)
    if settings.quantize == "auto" and quantization != "none":
        logger.info(
            "weights are quantized to %s, since they do not fit otherwise; --quantize none forbids it", quantization
        )
    return fitting.quantized(quantization)
