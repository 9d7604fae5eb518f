"""Every tested family, split over three ranges and two ends, against the whole model by transformers."""

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, PreTrainedModel

from gateway.generation.ends import Ends
from peer.model.blocks import Blocks
from peer.model.cache import SessionCache
from shared.errors import UnsupportedFamily
from shared.families import check_family
from shared.types import BlockRange
from tests.peer.model.families import VARIANTS
from tests.tiny_models import make_tiny_model

torch.set_num_threads(1)

CPU = torch.device("cpu")
RANGES = (BlockRange(0, 1), BlockRange(1, 4), BlockRange(4, 6))
TOKENS = torch.arange(40).mul(37).remainder(251).tolist()


class SplitModel:
    """Ends and ranges in a row, as a chain runs them."""

    def __init__(self, directory: Path) -> None:
        self.ends = Ends.load(directory, dtype=torch.float32, device=CPU)
        self.hops: list[tuple[Blocks, SessionCache]] = []
        for blocks in RANGES:
            held = Blocks.load(directory, blocks, dtype=torch.float32, device=CPU, quantization="none")
            self.hops.append((held, held.new_cache(blocks, reserve=len(TOKENS))))

    def logits(self, start: int, end: int) -> torch.Tensor:
        hidden = self.ends.embed(TOKENS[start:end], start)
        for blocks, cache in self.hops:
            hidden = blocks.forward(hidden, cache, start)
        return self.ends.logits(hidden)


@torch.inference_mode()
def whole_logits(directory: Path, steps: list[tuple[int, int]]) -> list[torch.Tensor]:
    """The whole model's logits for the same steps, each from its own cache and past."""
    model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32)
    cache, rows = None, []
    for start, end in steps:
        output = model(torch.tensor([TOKENS[start:end]]), past_key_values=cache, use_cache=True)
        cache = output.past_key_values
        rows.append(output.logits[0])
    return rows


@pytest.mark.parametrize(("family", "overrides"), VARIANTS, ids=lambda value: str(value).replace("{}", "plain"))
def test_split_equals_whole_through_prefill_decode_and_rollback(
    family: str, overrides: dict[str, Any], tmp_path: Path
) -> None:
    directory = make_tiny_model(tmp_path, family, **overrides)
    split = SplitModel(directory)
    steps = [(0, 12), (12, 15), *((position, position + 1) for position in range(15, 24))]
    for (start, end), expected in zip(steps, whole_logits(directory, steps), strict=True):
        torch.testing.assert_close(split.logits(start, end), expected, atol=1e-5, rtol=0)

    again = [(21, 22), (22, 25), (25, 26), (26, 27)]  # the cache holds 24 tokens: three go
    expected = whole_logits(directory, [(0, 12), (12, 15), (15, 21), *again])[3:]
    for (start, end), logits in zip(again, expected, strict=True):
        torch.testing.assert_close(split.logits(start, end), logits, atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("config", "named"),
    [
        ({"model_type": "qwen3_next"}, "'qwen3_next'"),
        ({}, "None"),
        ({"model_type": "gpt2", "scale_attn_by_inverse_layer_idx": True}, "index"),
        ({"model_type": "llama", "rope_scaling": {"type": "dynamic", "factor": 2.0}}, "dynamic"),
        ({"model_type": "phi3", "rope_scaling": {"type": "longrope"}}, "longrope"),
        ({"model_type": "gpt_oss", "quantization_config": {"quant_method": "mxfp4"}}, "mxfp4"),
    ],
)
def test_what_does_not_split_exactly_is_refused_by_name(config: dict[str, Any], named: str) -> None:
    with pytest.raises(UnsupportedFamily, match=named):
        check_family(config)
