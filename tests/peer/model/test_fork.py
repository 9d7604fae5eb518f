"""A session that begins as a copy of another's cache, in every tested family."""

from pathlib import Path
from typing import Any

import pytest
import torch

from peer.model.blocks import Blocks
from peer.model.cache import SessionCache
from peer.model.slab import most_rows
from shared.errors import CacheOverrun, CropTooDeep, PositionGap
from shared.types import BlockRange
from tests.peer.model.families import VARIANTS
from tests.tiny_models import make_tiny_model

torch.set_num_threads(1)

ALL = BlockRange(0, 3)
HIDDEN = torch.randn(1600, 64, generator=torch.Generator().manual_seed(7))


def load(directory: Path, blocks: BlockRange = ALL) -> Blocks:
    return Blocks.load(directory, blocks, dtype=torch.float32, device=torch.device("cpu"), quantization="none")


def fork(blocks: Blocks, parent: SessionCache, length: int, reserve: int = 40) -> SessionCache:
    copied = blocks.new_cache(parent.blocks, reserve)
    copied.take(parent, length)
    return copied


def run(blocks: Blocks, cache: SessionCache, first: int, *counts: int) -> torch.Tensor:
    """Rows of HIDDEN from `first` on, in so many forwards, at the end of the cache."""
    outputs = []
    for count in counts:
        outputs.append(blocks.forward(HIDDEN[first : first + count], cache, cache.length))
        first += count
    return torch.cat(outputs)


@pytest.mark.parametrize(("family", "overrides"), VARIANTS, ids=lambda value: str(value).replace("{}", "plain"))
def test_both_go_on_as_if_each_were_alone(family: str, overrides: dict[str, Any], tmp_path: Path) -> None:
    blocks = load(make_tiny_model(tmp_path, family, blocks=3, **overrides))
    parent, alone, other = (blocks.new_cache(ALL, reserve) for reserve in (20, 20, 40))
    for cache in (parent, alone, other):
        run(blocks, cache, 0, 12)
    copied = fork(blocks, parent, 12)
    for both, first in (((copied, other), 20), ((parent, alone), 12), ((copied, other), 25), ((parent, alone), 17)):
        given, expected = (run(blocks, cache, first, 1, 2, 1) for cache in both)
        assert torch.equal(given, expected)


def test_a_parent_that_has_gone_on_is_copied_as_it_was_and_goes_on_itself(gemma3: Path) -> None:
    blocks = load(gemma3)
    parent, alone = blocks.new_cache(ALL, 1600), blocks.new_cache(ALL, 1600)
    run(blocks, parent, 0, *[100] * 12, 30)
    run(blocks, alone, 0, *[100] * 12)
    copied = fork(blocks, parent, 1200, reserve=1600)
    given, expected = (run(blocks, cache, 1300, 1, 100, 1) for cache in (copied, alone))
    assert torch.equal(given, expected)
    alone.begin(1200, 0)
    given, expected = run(blocks, parent, 1230, 1), run(blocks, alone, 1200, 30, 1)
    torch.testing.assert_close(given, expected[-1:], atol=1e-5, rtol=0)


def test_a_copy_never_holds_more_rows_than_were_counted_for_it(gemma3: Path) -> None:
    blocks = load(gemma3)
    parent = blocks.new_cache(ALL, 1600)
    run(blocks, parent, 0, *[100] * 12)
    copied = fork(blocks, parent, 1200, reserve=1210)
    held = [layer.keys.shape[2] for layer in copied.layers if layer.keys is not None]
    assert len(held) == len(ALL)
    assert all(rows <= most_rows(1210, layer.window) for rows, layer in zip(held, copied.layers, strict=True))


@pytest.mark.parametrize(
    ("length", "reserve", "error"), [(1201, 1600, PositionGap), (1200, 1199, CacheOverrun), (50, 1600, CropTooDeep)]
)
def test_what_cannot_be_copied_is_refused_and_changes_nothing(
    gemma3: Path, length: int, reserve: int, error: type[Exception]
) -> None:
    blocks = load(gemma3)
    parent, copied = blocks.new_cache(ALL, 1600), blocks.new_cache(ALL, reserve)
    run(blocks, parent, 0, *[100] * 12)
    with pytest.raises(error):
        copied.take(parent, length)
    assert (copied.length, parent.length) == (0, 1200)
