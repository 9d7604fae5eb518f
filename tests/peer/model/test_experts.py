"""Fused experts of every family that has them: quantized, close, and no token changes another."""

from pathlib import Path

import pytest
import torch
from torch import nn

from peer.model.experts import Int8Matrices, Nf4Matrices
from peer.model.load import load_model
from peer.model.quantize import held_bytes
from shared.anatomy import core_of, layers_name
from shared.types import BlockRange
from tests.tiny_models import make_tiny_model

torch.set_num_threads(1)

CPU = torch.device("cpu")
FAMILIES = ("deepseek_v2", "deepseek_v3", "gpt_oss", "llama4_text", "mixtral", "olmoe", "qwen3_moe")
BLOCK = BlockRange(1, 2)  # the first of some families has no experts
QUANTIZATIONS = [("int8", 0.29, 0.999), ("nf4", 0.16, 0.95)]  # share of float32's bytes, and cosine to its output

every_family = pytest.mark.parametrize("family", FAMILIES)
every_quantization = pytest.mark.parametrize(("quantization", "share", "close"), QUANTIZATIONS, ids=["int8", "nf4"])


def load(directory: Path, quantization: str) -> nn.Module:
    return load_model(directory, BLOCK, torch.float32, CPU, quantization)


@torch.inference_mode()
def mixture(model: nn.Module, rows: torch.Tensor) -> torch.Tensor:
    """(rows, hidden) through router, experts and shared experts of the one block."""
    core = core_of(model)
    (layer,) = getattr(core, layers_name(core))
    output = (layer.feed_forward if hasattr(layer, "feed_forward") else layer.mlp)(rows[None])
    return (output[0] if isinstance(output, tuple) else output).view(len(rows), -1)


@every_family
@every_quantization
def test_every_matrix_is_quantized_and_the_output_close(
    family: str, quantization: str, share: float, close: float, tmp_path: Path
) -> None:
    directory = make_tiny_model(tmp_path, family, blocks=2)
    whole, model = load(directory, "none"), load(directory, quantization)
    rows = torch.randn(40, 64, generator=torch.Generator().manual_seed(5))
    similar = torch.cosine_similarity(mixture(whole, rows), mixture(model, rows))
    assert similar.median() > close  # a row whose two best experts are as good may get another
    assert sum(isinstance(part, Int8Matrices | Nf4Matrices) for part in model.modules()) == 2
    assert held_bytes(model) < share * held_bytes(whole)


@every_family
@every_quantization
def test_tokens_beside_it_do_not_change_a_token(
    family: str, quantization: str, share: float, close: float, tmp_path: Path
) -> None:
    model = load(make_tiny_model(tmp_path, family, blocks=2), quantization)
    rows, others = torch.randn(2, 6, 64, generator=torch.Generator().manual_seed(5))
    together = mixture(model, torch.cat([rows[:1], others[1:]]))  # they go to other experts
    torch.testing.assert_close(together[:1], mixture(model, rows)[:1], atol=1e-5, rtol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_each_expert_comes_back_within_its_quantization(dtype: torch.dtype) -> None:
    matrices = torch.randn(3, 40, 64, generator=torch.Generator().manual_seed(5)).to(dtype)
    for quantized, error in ((Int8Matrices(matrices, dtype), 0.02), (Nf4Matrices(matrices, CPU), 0.5)):
        for expert in range(3):
            assert quantized[torch.tensor(expert)].dtype == dtype
            assert (quantized[expert] - matrices[expert]).abs().max() < error
