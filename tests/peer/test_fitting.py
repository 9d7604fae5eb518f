"""What a peer takes of its memory, with a tiny model: each block 148 KB in float32, a cache token 256 bytes a block."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from peer.compute import Compute
from peer.fitting import Fitting, look_at_memory
from peer.loading import load_blocks, place
from peer.memory import ENOUGH_SESSIONS, GB, LEAST_TOKENS, MemoryCap, MemoryLimit
from peer.settings import PeerSettings
from shared.checkpoint import Checkpoint, open_checkpoint
from shared.errors import NotEnoughMemory
from shared.types import BlockRange
from tests.tiny_models import make_tiny_model

CONTEXT = 512
TOKEN_BYTES = 2 * 2 * 16 * 4  # (k, v), heads, dim, float32; in one block


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    model = make_tiny_model(tmp_path_factory.mktemp("model"), blocks=6, context=CONTEXT)
    return open_checkpoint(str(model), name="tiny", cache_dir=tmp_path_factory.mktemp("cache"))


def fitting(checkpoint: Checkpoint, size: int, **settings: object) -> Fitting:
    """With `size` bytes for blocks and cache."""
    usual = {
        "blocks": None,
        "num_blocks": None,
        "quantize": "auto",
        "cache_tokens": None,
        "memory": None,
    }
    others = dict.fromkeys(PeerSettings.__dataclass_fields__)  # which memory does not depend on
    told = PeerSettings(**{**others, **usual, **settings})  # pyright: ignore[reportArgumentType]
    compute = Compute(torch.device("cpu"), torch.float32, "none")
    return Fitting(told, checkpoint, compute, MemoryLimit(size, "so much is free"))


def bytes_of(checkpoint: Checkpoint, blocks: int) -> int:
    return checkpoint.bytes_of(BlockRange(0, blocks), 4)


def test_without_a_number_a_fifth_of_the_memory_is_kept_for_the_cache(checkpoint: Checkpoint) -> None:
    three = bytes_of(checkpoint, 3) * 5 // 4 + 4 + 3 * LEAST_TOKENS * TOKEN_BYTES
    assert place(fitting(checkpoint, three), []) == BlockRange(0, 3)
    assert place(fitting(checkpoint, 10**9), [BlockRange(0, 2)]) == BlockRange(0, 6)


def test_a_cache_of_told_size_takes_its_part_of_each_block(checkpoint: Checkpoint) -> None:
    size = bytes_of(checkpoint, 2) + 2 * 3000 * TOKEN_BYTES
    assert fitting(checkpoint, size, cache_tokens=3000).count() == 2
    assert fitting(checkpoint, size - 1, cache_tokens=3000).count() == 1
    with pytest.raises(NotEnoughMemory, match=r"so much is free.*--cache-tokens"):
        fitting(checkpoint, size // 2 - 1, cache_tokens=3000).count()


def test_blocks_that_leave_no_cache_are_refused_before_they_are_loaded(checkpoint: Checkpoint) -> None:
    blocks = BlockRange(2, 4)
    enough = bytes_of(checkpoint, 2) + 2 * LEAST_TOKENS * TOKEN_BYTES
    fitting(checkpoint, enough).check(blocks)
    with pytest.raises(NotEnoughMemory, match="--memory"):
        place(fitting(checkpoint, enough - 1, blocks=blocks), [])


def test_the_cache_is_what_the_loaded_blocks_leave(checkpoint: Checkpoint) -> None:
    size = bytes_of(checkpoint, 2) + 2 * 5000 * TOKEN_BYTES
    judge = fitting(checkpoint, size)
    blocks = load_blocks(checkpoint, BlockRange(2, 4), judge.compute)
    left = size - blocks.parameter_bytes
    budget = judge.budget(blocks)
    assert budget.tokens == left // (2 * TOKEN_BYTES) <= 5000
    assert blocks.parameter_bytes + budget.total <= size
    assert replace(judge, limit=MemoryLimit(10**12, "")).budget(blocks).tokens == ENOUGH_SESSIONS * CONTEXT
    too_little = MemoryLimit(blocks.parameter_bytes + LEAST_TOKENS * 2 * TOKEN_BYTES - 1, "")
    with pytest.raises(NotEnoughMemory):
        replace(judge, limit=too_little).budget(blocks)


def test_a_cache_of_told_size_is_had_exactly_or_refused(checkpoint: Checkpoint) -> None:
    judge = fitting(checkpoint, 10**9, cache_tokens=700)
    blocks = load_blocks(checkpoint, BlockRange(0, 1), judge.compute)
    assert (judge.budget(blocks).tokens, judge.budget(blocks).total) == (700, 700 * TOKEN_BYTES)
    with pytest.raises(NotEnoughMemory, match="700 cache tokens"):
        replace(judge, limit=MemoryLimit(blocks.parameter_bytes + 699 * TOKEN_BYTES, "")).budget(blocks)


@pytest.mark.parametrize("asked", [{"blocks": BlockRange(1, 5)}, {"num_blocks": 4}])
def test_what_is_asked_for_may_fit_only_when_quantized(checkpoint: Checkpoint, asked: dict[str, object]) -> None:
    size = bytes_of(checkpoint, 4) + 4 * LEAST_TOKENS * TOKEN_BYTES
    tight = fitting(checkpoint, size - 1, **asked)
    assert (tight.fits("none"), tight.fits("int8")) == (False, True)
    assert fitting(checkpoint, size, **asked).fits("none")
    assert not fitting(checkpoint, 1000, **asked).fits("int8")


def test_what_does_not_fit_is_quantized_by_itself_unless_told_otherwise(checkpoint: Checkpoint) -> None:
    """4 blocks of the tiny model take 0.6 MB in float32, and the smallest cache over them 1 MB."""
    cap = MemoryCap((bytes_of(checkpoint, 4) + 4 * LEAST_TOKENS * TOKEN_BYTES - 1) / GB, "GB")
    told = fitting(checkpoint, 0, num_blocks=4, memory=cap)
    chosen = look_at_memory(told.settings, checkpoint, told.compute)
    assert chosen.compute.quantization == "int8"
    assert len(place(chosen, [])) == 4
    unbounded = replace(told.settings, memory=None)
    assert look_at_memory(unbounded, checkpoint, told.compute).compute.quantization == "none"
    with pytest.raises(NotEnoughMemory):
        place(look_at_memory(replace(told.settings, quantize="none"), checkpoint, told.compute), [])


@pytest.mark.parametrize("family", ["llama", "deepseek_v3", "falcon", "gpt2", "mpt", "bloom", "gemma3_text", "gpt_oss"])
def test_a_cache_that_was_thought_to_fit_does(family: str, tmp_path: Path) -> None:
    """What the configuration tells before loading is at least what a forward then shows."""
    model = make_tiny_model(tmp_path / "model", family, blocks=3, context=CONTEXT)
    checkpoint = open_checkpoint(str(model), name="tiny", cache_dir=tmp_path / "cache")
    blocks = load_blocks(checkpoint, BlockRange(0, 3), fitting(checkpoint, 0).compute)
    real = blocks.cache_bytes(blocks.range, 1)
    with pytest.raises(NotEnoughMemory):
        fitting(checkpoint, bytes_of(checkpoint, 3) + real - 1, cache_tokens=1).check(blocks.range)
