from __future__ import annotations

import pytest

from peer.placement import blocks_that_fit, choose_blocks
from shared.types import BlockRange


@pytest.mark.parametrize(
    ("held", "expected"),
    [
        ([], "0:10"),
        (["0:10"], "10:20"),
        (["0:10", "20:30"], "10:20"),
        (["0:25"], "20:30"),  # the hole is short, the range keeps its length
        (["0:30"], "0:10"),
        (["0:30", "0:12"], "12:22"),
        (["0:30", "0:10", "20:30"], "10:20"),
    ],
)
def test_the_weakest_part_of_the_model_is_taken(held: list[str], expected: str) -> None:
    assert str(choose_blocks(30, 10, [BlockRange.parse(text) for text in held])) == expected


def test_a_peer_that_could_hold_more_takes_the_whole_model() -> None:
    assert choose_blocks(6, 100, []) == BlockRange(0, 6)


def test_blocks_fit_with_their_cache() -> None:
    assert blocks_that_fit([90] * 30, 10, 800) == 8
    assert blocks_that_fit([90] * 30, 10, 80) == 0
    assert blocks_that_fit([90] * 3, 10, 800) == 3
