"""Sessions of any lengths and positions in one forward, against each of them alone."""

from pathlib import Path
from typing import Any

import pytest
import torch

from peer.model.blocks import Blocks
from peer.model.cache import SessionCache
from peer.model.ragged import Part
from shared.errors import CropTooDeep
from shared.types import BlockRange
from tests.peer.model.families import VARIANTS
from tests.tiny_models import make_tiny_model

torch.set_num_threads(1)

ALL = BlockRange(0, 4)
ALONE_ONLY = {"bloom", "falcon", "gptj", "llama4_text", "mpt", "stablelm"}

# Rounds of (session, position, tokens): prompts, decoding, several tokens at once, a prompt beside decoding, and steps
# back: session 1 rejects three tokens, session 0 two.
ROUNDS = [
    [(0, 0, 12), (1, 0, 3)],
    [(0, 12, 1), (1, 3, 1), (2, 0, 7)],
    [(2, 7, 20), (0, 13, 4), (1, 4, 5)],
    [(1, 6, 1), (0, 15, 2), (2, 27, 1)],
    [(0, 17, 1), (2, 28, 1), (1, 7, 9)],
]
RESERVE = 32


class Sessions:
    """Three sessions over one range, and what they put in."""

    def __init__(self, blocks: Blocks) -> None:
        self._blocks = blocks
        self._caches: list[SessionCache] = [blocks.new_cache(ALL, RESERVE) for _ in range(3)]
        self._hidden = torch.randn(3, RESERVE, 64, generator=torch.Generator().manual_seed(1))

    def part(self, session: int, position: int, tokens: int) -> Part:
        return Part(self._hidden[session, position : position + tokens], self._caches[session], position)


def load(directory: Path) -> Blocks:
    return Blocks.load(directory, ALL, dtype=torch.float32, device=torch.device("cpu"), quantization="none")


@pytest.mark.parametrize(("family", "overrides"), VARIANTS, ids=lambda value: str(value).replace("{}", "plain"))
def test_a_session_does_not_see_who_shares_its_forward(family: str, overrides: dict[str, Any], tmp_path: Path) -> None:
    blocks = load(make_tiny_model(tmp_path, family, blocks=4, **overrides))
    assert blocks.batches == (family not in ALONE_ONLY)
    together, alone = Sessions(blocks), Sessions(blocks)
    for steps in ROUNDS:
        outputs = blocks.forward_together([together.part(*step) for step in steps])
        for step, output in zip(steps, outputs, strict=True):
            expected = blocks.forward_together([alone.part(*step)])[0]
            torch.testing.assert_close(output, expected, atol=1e-5, rtol=0)


def test_weights_are_read_once_for_all(llama: Path) -> None:
    blocks = load(llama)
    rows: list[int] = []
    blocks._layers[0].mlp.register_forward_hook(lambda _module, inputs, _output: rows.append(inputs[0].shape[1]))
    sessions = Sessions(blocks)
    for steps in ROUNDS[:3]:
        blocks.forward_together([sessions.part(*step) for step in steps])
    assert rows == [15, 9, 29]


def test_one_that_cannot_run_leaves_the_others_as_they_were(gemma3: Path) -> None:
    blocks = load(gemma3)
    hidden = torch.randn(1600, 64)
    deep, other = blocks.new_cache(ALL, 1600), blocks.new_cache(ALL, 1600)
    blocks.forward_together([Part(hidden[:1100], deep, 0), Part(hidden[:5], other, 0)])
    blocks.forward_together([Part(hidden[1100:], deep, 1100)])  # its windows move: what lies far behind is gone
    with pytest.raises(CropTooDeep):
        blocks.forward_together([Part(hidden[5:6], other, 5), Part(hidden[:1], deep, 1)])
    assert (other.length, deep.length) == (5, 1600)
    again = blocks.forward_together([Part(hidden[5:6], other, 5)])[0]
    expected = blocks.forward(hidden[:6], blocks.new_cache(ALL, 6), 0)[-1:]
    torch.testing.assert_close(again, expected, atol=1e-5, rtol=0)
