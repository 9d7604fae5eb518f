"""What a gateway says that a model needs here."""

from pathlib import Path

import pytest
import torch

from gateway.generation.ends import Ends
from gateway.serving import bytes_to_hold
from shared.checkpoint import open_checkpoint
from tests.tiny_models import make_tiny_model

ROTARY_BYTES = 2 * 8 * 4  # computed, not stored


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("family", "tied"), [("llama", True), ("llama", False), ("gpt_neox", False), ("bloom", True)])
def test_the_bytes_that_are_foretold_are_those_that_are_held(
    family: str, tied: bool, dtype: torch.dtype, tmp_path: Path
) -> None:
    directory = make_tiny_model(tmp_path / "model", family, blocks=2, tie_word_embeddings=tied)
    checkpoint = open_checkpoint(str(directory), name=None, cache_dir=tmp_path)
    with checkpoint.prepare("ends") as part:
        ends = Ends.load(part, dtype=dtype, device=torch.device("cpu"))
    assert 0 <= ends.parameter_bytes - bytes_to_hold(checkpoint, dtype.itemsize) <= ROTARY_BYTES
