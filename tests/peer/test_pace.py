from __future__ import annotations

from pathlib import Path

import pytest
import torch

from peer.model.blocks import Blocks
from peer.pace import PREFILL_S, Pace, measure_pace
from shared.types import BlockRange
from tests.tiny_models import make_tiny_model


def test_a_prompt_gets_as_long_as_a_decode_step_or_a_bit() -> None:
    assert Pace(decode_s=0.01, token_s=0.001).prefill_tokens() == round(PREFILL_S / 0.001)
    assert Pace(decode_s=0.2, token_s=0.001).prefill_tokens() == 200
    assert Pace(decode_s=0.01, token_s=9.0).prefill_tokens() == 1


@pytest.mark.parametrize("slowness", [0.2, 1.0, 5.0])
def test_the_prediction_follows_a_machine_that_is_slower_or_faster_than_at_the_start(slowness: float) -> None:
    pace = Pace(decode_s=0.02, token_s=0.001)
    for _ in range(200):
        tokens = pace.prefill_tokens()
        pace.observe(tokens, tokens, slowness * (0.02 + 0.001 * tokens))
        pace.observe(3, 0, slowness * 0.02)
    assert pace.decode_s == pytest.approx(slowness * 0.02, rel=0.01)
    assert slowness * 0.001 * pace.prefill_tokens() == pytest.approx(max(pace.decode_s, PREFILL_S), rel=0.05)


def test_slices_do_not_shrink_because_small_ones_seem_dear() -> None:
    """A long context: each token costs eight times what it did at the start, a forward by itself what it did."""
    pace = Pace(decode_s=0.02, token_s=0.001)
    added = []
    for _ in range(300):
        tokens = pace.prefill_tokens()
        added.append(0.008 * tokens)
        pace.observe(tokens, tokens, 0.02 + added[-1])
    assert PREFILL_S / 2 < added[-1] < 2.5 * PREFILL_S


def test_a_forward_that_was_disturbed_changes_little() -> None:
    pace = Pace(decode_s=0.02, token_s=0.001)
    pace.observe(50, 50, 5 * 0.07)
    assert pace.prefill_tokens() > 40


def test_a_measured_pace_is_that_of_the_blocks(tmp_path: Path) -> None:
    llama = make_tiny_model(tmp_path)
    blocks = Blocks.load(llama, BlockRange(0, 2), dtype=torch.float32, device=torch.device("cpu"), quantization="none")
    pace = measure_pace(blocks)
    assert 0 < pace.token_s < pace.decode_s < 1
