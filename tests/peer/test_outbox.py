"""What a hop has sent, kept for whoever takes the next hop's place."""

from __future__ import annotations

import pytest
import torch

from peer.outbox import REPLAY_TOKENS, Outbox, OutboxBudget
from shared.tensors import Encoded, decode_hidden, encode_hidden

HIDDEN = 4
ROW_BYTES = HIDDEN * 4


def rows(start: int, end: int) -> torch.Tensor:
    """Rows whose numbers are their positions."""
    return torch.arange(start, end, dtype=torch.float32)[:, None].expand(-1, HIDDEN)


def made(start: int, end: int) -> Encoded:
    return encode_hidden(rows(start, end))


def box_of(tokens: int, total: int = 1000) -> tuple[Outbox, OutboxBudget]:
    """An outbox that holds so many rows, of a budget for `total` rows."""
    budget = OutboxBudget(total * ROW_BYTES)
    box = budget.box()
    if tokens:
        box.append(0, made(0, tokens))
    return box, budget


def held(box: Outbox, start: int, end: int) -> list[float]:
    """The rows [start, end), by their numbers."""
    return numbers(box.rows(start, end), end - start)


def numbers(sent: Encoded, count: int) -> list[float]:
    return decode_hidden(Encoded(sent.specs, memoryview(bytearray(sent.data))), (count, HIDDEN))[:, 0].tolist()


def test_rows_come_back_as_they_went_out() -> None:
    box, budget = box_of(5)
    box.append(5, made(5, 6))
    box.append(6, made(6, 9))
    assert (box.start, box.end) == (0, 9)
    assert held(box, 2, 8) == [2, 3, 4, 5, 6, 7]
    assert budget.used == len(box) == 9 * ROW_BYTES


def test_what_is_made_again_takes_the_place_of_what_was_there() -> None:
    box, budget = box_of(9)
    box.append(4, encode_hidden(-rows(4, 6)))
    assert (box.start, box.end) == (0, 6)
    assert held(box, 3, 6) == [3, -4, -5]
    assert budget.used == 6 * ROW_BYTES


@pytest.mark.parametrize(("end", "left"), [(9, (0, 9)), (20, (0, 9)), (4, (0, 4)), (0, (0, 0))])
def test_a_crop_forgets_what_lies_behind_it(end: int, left: tuple[int, int]) -> None:
    box, budget = box_of(9)
    box.crop(end)
    assert (box.start, box.end) == left
    assert budget.used == (left[1] - left[0]) * ROW_BYTES


def test_a_crop_before_its_beginning_leaves_nothing() -> None:
    box, budget = box_of(9)
    box.drop()
    box.append(9, made(9, 12))
    box.crop(3)
    assert (box.start, box.end, budget.used) == (3, 3, 0)


def test_after_a_gap_only_what_came_behind_it_is_held() -> None:
    box, budget = box_of(3)
    box.append(7, made(7, 9))
    assert (box.start, box.end) == (7, 9)
    assert budget.used == 2 * ROW_BYTES


def test_after_it_was_dropped_it_keeps_what_is_made_from_then_on() -> None:
    box, _ = box_of(5)
    box.drop()
    assert (box.start, box.end) == (5, 5)
    box.append(5, made(5, 7))
    assert held(box, 5, 7) == [5, 6]


def test_rows_of_another_dtype_are_not_mixed_with_those_before() -> None:
    box, budget = box_of(3)
    box.append(3, encode_hidden(rows(3, 5).to(torch.bfloat16)))
    assert (box.start, box.end) == (3, 5)
    assert budget.used == 2 * ROW_BYTES / 2


def test_a_full_budget_drops_the_longest_outbox_whole() -> None:
    budget = OutboxBudget(10 * ROW_BYTES)
    short, long = budget.box(), budget.box()
    short.append(0, made(0, 3))
    long.append(0, made(0, 6))
    short.append(3, made(3, 5))
    assert (short.start, short.end) == (0, 5)
    assert (long.start, long.end) == (6, 6)
    assert budget.used == 5 * ROW_BYTES


def test_the_longest_may_be_the_one_that_grows() -> None:
    budget = OutboxBudget(10 * ROW_BYTES)
    short, long = budget.box(), budget.box()
    short.append(0, made(0, 3))
    long.append(0, made(0, 6))
    long.append(6, made(6, 8))
    assert (short.start, short.end) == (0, 3)
    assert (long.start, long.end) == (6, 8)


def test_what_is_larger_than_the_budget_is_not_kept_and_costs_the_others_nothing() -> None:
    budget = OutboxBudget(10 * ROW_BYTES)
    one, other = budget.box(), budget.box()
    one.append(0, made(0, 3))
    other.append(0, made(0, 11))
    assert (other.start, other.end) == (11, 11)
    assert held(one, 0, 3) == [0, 1, 2]


@pytest.mark.parametrize("total", [0, 1, 7, 100])
def test_the_budget_is_never_overdrawn_and_all_of_it_comes_back(total: int) -> None:
    budget = OutboxBudget(total * ROW_BYTES)
    boxes = [budget.box() for _ in range(3)]
    for turn in range(30):
        boxes[turn % 3].append(turn // 3 * 2, made(0, 2))
        assert budget.used == sum(map(len, boxes)) <= budget.total
    for box in boxes:
        assert box.end == 20
        budget.forget(box)
    assert budget.used == 0


def test_a_long_replay_goes_in_frames_of_its_size() -> None:
    box, _ = box_of(REPLAY_TOKENS + 5)
    assert box.rows(0, REPLAY_TOKENS + 5).specs[0].shape == (REPLAY_TOKENS, HIDDEN)
    assert held(box, REPLAY_TOKENS, REPLAY_TOKENS + 5) == [REPLAY_TOKENS + each for each in range(5)]


def test_rows_that_are_on_their_way_stay_as_they_were() -> None:
    box, _ = box_of(4)
    sent = box.rows(0, 4)
    box.append(1, encode_hidden(-rows(1, 4)))
    assert numbers(sent, 4) == [0, 1, 2, 3]
