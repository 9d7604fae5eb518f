import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from peer.model.blocks import Blocks
from shared.errors import CacheOverrun, CheckpointError, CropTooDeep, ModelNotFound, PositionGap, UsageError
from shared.types import BlockRange
from tests.tiny_models import make_tiny_model

CPU = torch.device("cpu")
ALL = BlockRange(0, 6)
HIDDEN = torch.randn(1600, 64, generator=torch.Generator().manual_seed(7))


def load(directory: Path, blocks: BlockRange, quantization: str = "none", device: torch.device = CPU) -> Blocks:
    return Blocks.load(directory, blocks, dtype=torch.float32, device=device, quantization=quantization)


def run(blocks: Blocks, span: BlockRange, hidden: torch.Tensor, chunk: int) -> torch.Tensor:
    """All of `hidden` through `span`, `chunk` tokens a forward."""
    cache = blocks.new_cache(span, reserve=len(hidden))
    return torch.cat([blocks.forward(part, cache, i * chunk) for i, part in enumerate(hidden.split(chunk))])


@pytest.mark.parametrize("span", [BlockRange(1, 2), BlockRange(2, 5), BlockRange(4, 6)], ids=str)
@pytest.mark.parametrize("model", ["llama", "gemma3"])
def test_part_of_a_range_equals_a_peer_that_holds_just_that(
    model: str, span: BlockRange, request: pytest.FixtureRequest
) -> None:
    directory = request.getfixturevalue(model)
    held, alone = load(directory, BlockRange(1, 6)), load(directory, span)
    torch.testing.assert_close(run(held, span, HIDDEN[:30], 5), run(alone, span, HIDDEN[:30], 5), atol=0, rtol=0)


def test_sessions_over_different_parts_do_not_disturb_each_other(gemma3: Path) -> None:
    blocks = load(gemma3, ALL)
    spans = [BlockRange(0, 3), BlockRange(3, 6), ALL]
    caches = [blocks.new_cache(span, reserve=20) for span in spans]
    mixed = [[blocks.forward(HIDDEN[i : i + 1], cache, i) for cache in caches] for i in range(20)]
    for span, rows in zip(spans, zip(*mixed, strict=True), strict=True):
        torch.testing.assert_close(torch.cat(rows), run(blocks, span, HIDDEN[:20], 1), atol=0, rtol=0)


def test_a_crop_of_many_tokens_past_the_window_is_exact(gemma3: Path) -> None:
    blocks = load(gemma3, ALL)
    expected = run(blocks, ALL, HIDDEN, 100)
    cache = blocks.new_cache(ALL, reserve=1600)
    blocks.forward(HIDDEN, cache, 0)
    blocks.forward(HIDDEN[1500:], cache, 1500)
    again = torch.cat([blocks.forward(part, cache, 1200 + 100 * i) for i, part in enumerate(HIDDEN[1200:].split(100))])
    torch.testing.assert_close(again, expected[1200:], atol=1e-5, rtol=0)


def test_a_crop_deeper_than_a_sliding_layer_holds_is_refused(gemma3: Path) -> None:
    blocks = load(gemma3, ALL)
    cache = blocks.new_cache(ALL, reserve=1600)
    for i, part in enumerate(HIDDEN.split(100)):
        blocks.forward(part, cache, 100 * i)
    with pytest.raises(CropTooDeep):
        blocks.forward(HIDDEN[100:101], cache, 100)
    assert cache.length == 1600


def test_gap_and_overrun_leave_the_cache_usable(llama: Path) -> None:
    blocks = load(llama, ALL)
    expected = run(blocks, ALL, HIDDEN[:10], 5)
    cache = blocks.new_cache(ALL, reserve=10)
    blocks.forward(HIDDEN[:5], cache, 0)
    with pytest.raises(PositionGap):
        blocks.forward(HIDDEN[6:7], cache, 6)
    with pytest.raises(CacheOverrun):
        blocks.forward(HIDDEN[5:11], cache, 5)
    torch.testing.assert_close(blocks.forward(HIDDEN[5:10], cache, 5), expected[5:], atol=0, rtol=0)


def test_cache_bytes_come_from_the_real_shapes(llama: Path, tmp_path: Path) -> None:
    blocks = load(llama, BlockRange(1, 5))
    assert blocks.cache_bytes(BlockRange(2, 4), 1) == 2 * (2 * 2 * 16 * 4)  # blocks, (k, v), heads, dim, float32
    latent = load(make_tiny_model(tmp_path, "deepseek_v3"), ALL)
    assert latent.cache_bytes(ALL, 1) == 6 * (16 + 8) * 4  # latent and rotary part, float32


def test_a_single_file_without_index_serves_as_well(llama: Path, tmp_path: Path) -> None:
    whole = make_tiny_model(tmp_path, shard_size="1GB")
    assert not (whole / "model.safetensors.index.json").exists()
    span = BlockRange(2, 4)
    torch.testing.assert_close(
        run(load(whole, span), span, HIDDEN[:8], 8), run(load(llama, span), span, HIDDEN[:8], 8), atol=0, rtol=0
    )


def test_files_of_other_blocks_are_not_opened(llama: Path, tmp_path: Path) -> None:
    weight_map = json.loads((llama / "model.safetensors.index.json").read_bytes())["weight_map"]
    needed = {file for name, file in weight_map.items() if ".layers.3." in name}
    for name in {"config.json", "model.safetensors.index.json", *needed}:
        shutil.copy(llama / name, tmp_path)
    assert needed < set(weight_map.values())
    assert load(tmp_path, BlockRange(3, 4)).range == BlockRange(3, 4)


def test_a_missing_tensor_is_named(llama: Path, tmp_path: Path) -> None:
    shutil.copytree(llama, tmp_path, dirs_exist_ok=True)
    index = json.loads((tmp_path / "model.safetensors.index.json").read_bytes())
    del index["weight_map"]["model.layers.3.mlp.up_proj.weight"]
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(CheckpointError, match=r"lacks 1 tensors.*layers\.3\.mlp\.up_proj"):
        load(tmp_path, ALL)


def test_what_cannot_be_loaded_says_why(llama: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"4:7 are outside the model: it has blocks 0:6"):
        load(llama, BlockRange(4, 7))
    with pytest.raises(ModelNotFound, match=r"holds no config\.json"):
        load(tmp_path, ALL)
    with pytest.raises(UsageError, match=r"int3 is not built: use one of none, int8, nf4"):
        load(llama, ALL, quantization="int3")


def test_a_third_of_the_blocks_has_a_third_of_the_bytes(thirty_blocks: Path) -> None:
    ten = load(thirty_blocks, BlockRange(10, 20)).parameter_bytes
    assert ten / load(thirty_blocks, BlockRange(0, 30)).parameter_bytes == pytest.approx(1 / 3, abs=0.001)


GROWTH = """
import sys, psutil, torch
from pathlib import Path
from peer.model.blocks import Blocks
from shared.types import BlockRange

def load(directory, blocks):
    device = torch.device("cpu")
    return Blocks.load(Path(directory), blocks, dtype=torch.float32, device=device, quantization=sys.argv[4])

torch.set_num_threads(1)
load(sys.argv[1], BlockRange(0, 1))  # imports and thread pools are no part of what blocks take
before = psutil.Process().memory_info().rss
blocks = load(sys.argv[2], BlockRange.parse(sys.argv[3]))
print(psutil.Process().memory_info().rss - before)
"""


def growth(warm_up: Path, directory: Path, blocks: str, quantization: str = "none") -> int:
    """Bytes by which a fresh process grows when it loads `blocks`."""
    arguments = [str(warm_up), str(directory), blocks, quantization]
    root = Path(__file__).parents[3]
    done = subprocess.run(
        [sys.executable, "-c", GROWTH, *arguments], capture_output=True, text=True, check=True, timeout=60, cwd=root
    )
    return int(done.stdout)


@pytest.mark.slow
def test_a_process_grows_by_what_it_holds(llama: Path, thirty_blocks: Path) -> None:
    ten, thirty = (growth(llama, thirty_blocks, blocks) for blocks in ("10:20", "0:30"))
    assert ten <= 0.45 * thirty
    assert ten <= 1.2 * load(thirty_blocks, BlockRange(10, 20)).parameter_bytes  # not the bfloat16 it came from, too


@pytest.mark.slow
def test_quantizing_leaves_none_of_the_float_weights_behind(llama: Path, thirty_blocks: Path) -> None:
    quantized = load(thirty_blocks, BlockRange(10, 20), "int8").parameter_bytes
    assert growth(llama, thirty_blocks, "10:20", "int8") <= 1.5 * quantized
