from __future__ import annotations

import logging

import pytest

from shared.shunned import GOOD_CONDUCT_S, LONGEST_S, SLIP_S, SLIPS, SLIPS_FORGOTTEN_S, Shunned
from tests.shared.clock import Clock


@pytest.fixture
def clock() -> Clock:
    return Clock()


def slip(shunned: Shunned, clock: Clock, times: int, every_s: float = SLIP_S) -> None:
    for _ in range(times):
        shunned.slips("eve", "was late")
        clock.now += every_s


def test_each_offence_costs_twice_the_time_of_the_one_before_up_to_a_limit(clock: Clock) -> None:
    shunned, times = Shunned(clock), []
    for _ in range(10):
        shunned.offends("eve", "lied")
        times.append(shunned.seconds("eve"))
        clock.now += times[-1]
        assert "eve" not in shunned
    assert times == [5, 10, 20, 40, 80, 160, 320, LONGEST_S, LONGEST_S, LONGEST_S]
    assert "ann" not in shunned


def test_what_shows_in_many_sessions_at_once_is_one_offence_and_is_told_once(
    clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    shunned = Shunned(clock)
    with caplog.at_level(logging.WARNING):
        for _ in range(50):
            shunned.offends("eve", "lied")
            clock.now += 0.01
    assert [record.getMessage() for record in caplog.records] == ["eve is shunned for 5 s: lied"]
    assert shunned.seconds("eve") == pytest.approx(4.5)


def test_good_conduct_for_an_hour_clears_the_record(clock: Clock) -> None:
    shunned = Shunned(clock)
    for wait_s, seconds in ((0, 5), (5 + GOOD_CONDUCT_S - 1, 10), (10 + GOOD_CONDUCT_S + 1, 5)):
        clock.now += wait_s
        shunned.offends("eve", "lied")
        assert shunned.seconds("eve") == seconds


def test_slips_count_only_when_they_come_again_and_again(clock: Clock) -> None:
    shunned = Shunned(clock)
    slip(shunned, clock, SLIPS - 1)
    assert "eve" not in shunned
    slip(shunned, clock, 1, every_s=1)
    assert shunned.seconds("eve") == 4


@pytest.mark.parametrize(("times", "every_s"), [(4, SLIP_S / 4), (10, SLIPS_FORGOTTEN_S + 1)])
def test_slips_at_one_time_or_long_ago_count_for_nothing(clock: Clock, times: int, every_s: float) -> None:
    shunned = Shunned(clock)
    slip(shunned, clock, times, every_s)
    assert "eve" not in shunned


def test_slips_without_a_pause_are_not_one_event_for_ever(clock: Clock) -> None:
    shunned = Shunned(clock)
    slip(shunned, clock, 12, every_s=1)
    assert "eve" in shunned


def test_no_more_offenders_are_remembered_than_there_is_room_for(clock: Clock) -> None:
    shunned = Shunned(clock, capacity=3)
    for number in range(10):
        shunned.offends(str(number), "lied")
    assert len(shunned) == 3
    assert [number for number in range(10) if str(number) in shunned] == [7, 8, 9]
