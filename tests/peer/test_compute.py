from pathlib import Path

import pytest
import torch

from peer.compute import bytes_per_weight, choose_quantization
from peer.model.load import load_model
from peer.model.quantize import QUANTIZATIONS, held_bytes
from shared.types import BlockRange
from tests.tiny_models import make_tiny_model


@pytest.mark.parametrize(
    ("asked", "fitting", "chosen"),
    [
        ("auto", {"none", "int8", "nf4"}, "none"),
        ("auto", {"int8", "nf4"}, "int8"),
        ("auto", {"nf4"}, "nf4"),
        ("auto", set(), "nf4"),  # what then refuses to load says how much is missing, at the least
        ("int8", {"none", "int8", "nf4"}, "int8"),
        ("none", set(), "none"),
    ],
)
def test_auto_quantizes_no_more_than_it_must(asked: str, fitting: set[str], chosen: str) -> None:
    assert choose_quantization(asked, fitting.__contains__) == chosen


@pytest.mark.parametrize("quantization", QUANTIZATIONS)
def test_the_estimate_holds_and_is_close(quantization: str, tmp_path: Path) -> None:
    directory = make_tiny_model(tmp_path, blocks=1, hidden_size=512, intermediate_size=1024, head_dim=128)
    held = held_bytes(load_model(directory, BlockRange(0, 1), torch.float32, torch.device("cpu"), quantization))
    weights = (2 + 1) * 512 * 512 + 3 * 1024 * 512 + 2 * 512
    estimate = bytes_per_weight(quantization, torch.float32) * weights
    assert 0.96 * estimate < held <= 1.01 * estimate
