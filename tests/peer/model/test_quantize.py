from pathlib import Path

import pytest
import torch
from torch import nn

from peer.model.blocks import Blocks
from peer.model.quantize import Int8Linear
from shared.errors import UsageError
from shared.types import BlockRange
from tests.tiny_models import make_tiny_model

CPU = torch.device("cpu")


def load(directory: Path, blocks: BlockRange, quantization: str, dtype: torch.dtype = torch.float32) -> Blocks:
    return Blocks.load(directory, blocks, dtype=dtype, device=CPU, quantization=quantization)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("rows", [1, 8, 9, 40])
def test_a_linear_map_keeps_its_direction(rows: int, dtype: torch.dtype) -> None:
    torch.manual_seed(1)
    linear = nn.Linear(96, 48)
    x = torch.randn(2, rows, 96)
    y = Int8Linear(linear.weight.data, linear.bias.data, dtype)(x.to(dtype))
    assert (y.shape, y.dtype) == ((2, rows, 48), dtype)
    assert torch.cosine_similarity(y.float().flatten(), linear(x).flatten(), dim=0) > 0.9995


def test_a_channel_of_zeros_stays_zero() -> None:
    assert not Int8Linear(torch.zeros(4, 8), None, torch.float32)(torch.ones(1, 8)).any()


@pytest.mark.parametrize("family", ["llama", "gpt2", "bloom"])
@pytest.mark.parametrize("span", [BlockRange(0, 3), BlockRange(3, 6)], ids=str)
def test_quantized_blocks_stay_close_in_prefill_and_decode(family: str, span: BlockRange, tmp_path: Path) -> None:
    directory = make_tiny_model(tmp_path, family)
    hidden = torch.randn(21, 64, generator=torch.Generator().manual_seed(3))
    outputs = []
    for blocks in (load(directory, span, "none"), load(directory, span, "int8")):
        cache = blocks.new_cache(span, reserve=21)
        outputs.append((blocks.forward(hidden[:20], cache, 0), blocks.forward(hidden[20:], cache, 20)))
    for exact, quantized in zip(*outputs, strict=True):
        assert torch.cosine_similarity(exact, quantized).min() > 0.999


def test_int8_takes_a_quarter_of_float32(thirty_blocks: Path) -> None:
    span = BlockRange(4, 6)
    whole = load(thirty_blocks, span, "none").parameter_bytes
    assert load(thirty_blocks, span, "int8").parameter_bytes / whole == pytest.approx(0.25, abs=0.01)


def test_fused_experts_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"fused experts"):
        load(make_tiny_model(tmp_path, "mixtral"), BlockRange(0, 1), "int8")
