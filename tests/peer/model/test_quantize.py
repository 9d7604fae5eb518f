from pathlib import Path

import pytest
import torch
from torch import nn

from peer.model.blocks import Blocks
from peer.model.load import load_model
from peer.model.quantize import Way, held_bytes, int8_way, llm_int8_way, nf4_way, quantize_block
from shared.errors import UsageError
from shared.few_rows import speed_up_decoding
from shared.int8 import Int8Linear
from shared.types import BlockRange
from tests.tiny_models import make_tiny_model

torch.set_num_threads(1)

CPU = torch.device("cpu")
CLOSE = {"int8": 0.999, "nf4": 0.9}  # cosine; four bits of a tiny random matrix are rough


def held(directory: Path, span: BlockRange, quantization: str) -> int:
    return held_bytes(load_model(directory, span, torch.float32, CPU, quantization))


def steps(directory: Path, span: BlockRange, quantization: str) -> torch.Tensor:
    """Twenty tokens at once, then one."""
    blocks = Blocks.load(directory, span, dtype=torch.float32, device=CPU, quantization=quantization)
    hidden = torch.randn(21, 64, generator=torch.Generator().manual_seed(3))
    cache = blocks.new_cache(span, reserve=21)
    return torch.cat([blocks.forward(hidden[:20], cache, 0), blocks.forward(hidden[20:], cache, 20)])


@pytest.mark.parametrize("quantization", ["int8", "nf4"])
@pytest.mark.parametrize("family", ["llama", "gpt2", "bloom", "falcon", "deepseek_v2"])
@pytest.mark.parametrize("span", [BlockRange(0, 3), BlockRange(3, 6)], ids=str)
def test_quantized_blocks_stay_close_in_prefill_and_decode(
    family: str, quantization: str, span: BlockRange, tmp_path: Path
) -> None:
    directory = make_tiny_model(tmp_path, family)
    similar = torch.cosine_similarity(steps(directory, span, "none"), steps(directory, span, quantization))
    assert similar.min() > CLOSE[quantization] - (0.1 if family == "deepseek_v2" else 0)  # its router may flip


@pytest.mark.parametrize(("quantization", "share"), [("int8", 0.25), ("nf4", 0.135)])
def test_quantized_blocks_take_their_share_of_float32(quantization: str, share: float, thirty_blocks: Path) -> None:
    span = BlockRange(4, 6)
    whole = held(thirty_blocks, span, "none")
    assert held(thirty_blocks, span, quantization) / whole == pytest.approx(share, abs=0.01)


def test_llm_int8_runs_on_a_cpu_too(caplog: pytest.LogCaptureFixture) -> None:
    block = nn.Sequential(nn.Linear(64, 96), nn.ReLU(), nn.Linear(96, 48, bias=False)).eval()
    x = torch.randn(20, 64)
    expected, size = block(x), held_bytes(block)
    quantize_block(block, llm_int8_way(torch.float32, CPU), CPU)
    with torch.inference_mode():
        assert torch.cosine_similarity(block(x), expected).min() > 0.999
    assert held_bytes(block) < 0.35 * size
    assert not caplog.records  # it has a line for each product


@pytest.mark.parametrize("way", [int8_way(torch.float32), nf4_way(torch.float32, CPU)], ids=lambda way: way.name)
def test_experts_that_cannot_be_taken_one_by_one_are_refused_by_name(way: Way) -> None:
    class StrangeExperts(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.everything = nn.Parameter(torch.zeros(4, 64, 64))

    with pytest.raises(UsageError, match=r"StrangeExperts.*--quantize none"):
        quantize_block(nn.Sequential(StrangeExperts()), way, CPU)


def test_an_unknown_quantization_is_refused(llama: Path) -> None:
    with pytest.raises(UsageError, match=r"int3.*int8, nf4"):
        held(llama, BlockRange(0, 1), "int3")


def test_maps_that_were_made_fast_for_a_few_rows_are_quantized_like_others() -> None:
    block = nn.ModuleDict({"wide": nn.Linear(64, 128), "narrow": nn.Linear(128, 64)})
    speed_up_decoding(block)
    quantize_block(block, int8_way(torch.float32), torch.device("cpu"))
    assert all(isinstance(part, Int8Linear) for part in block.values())
