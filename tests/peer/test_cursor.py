from __future__ import annotations

import pytest

from peer.cursor import Cursor
from shared.errors import PositionGap


def test_a_prefill_of_many_frames_goes_on_where_it_stopped() -> None:
    cursor = Cursor(epoch=1)
    assert all(cursor.admit(1, 1, position, 4) for position in (0, 4, 8))
    assert cursor.length == 12


def test_a_higher_round_may_start_lower_and_so_crops() -> None:
    cursor = Cursor(epoch=1, round=3, length=20)
    assert cursor.admit(1, 4, 17, 1)
    assert cursor.length == 18


def test_within_a_round_no_step_back_is_taken() -> None:
    cursor = Cursor(epoch=1, round=3, length=20)
    assert not cursor.admit(1, 3, 17, 1)
    assert (cursor.length, cursor.dropped) == (20, 1)


@pytest.mark.parametrize(("epoch", "round_"), [(0, 9), (2, 9), (1, 2)])
def test_frames_of_another_time_are_dropped_and_counted(epoch: int, round_: int) -> None:
    cursor = Cursor(epoch=1, round=3, length=20)
    assert not cursor.admit(epoch, round_, 20, 1)
    assert (cursor.round, cursor.length, cursor.dropped) == (3, 20, 1)


def test_a_gap_names_both_positions() -> None:
    with pytest.raises(PositionGap, match=r"position 25, the cache ends at 20"):
        Cursor(epoch=1, round=3, length=20).admit(1, 4, 25, 1)
