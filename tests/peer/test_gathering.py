from __future__ import annotations

import pytest

from peer.batch import Share, plan
from peer.crowding import Crowding, Usage, crowded
from peer.gathering import Gathering
from tests.peer.queues import WIDTH, session


def gathering(*decoding: str, crowded: bool = True, at_once: int = 2) -> Gathering:
    """For a peer on which these sessions have just decoded."""
    made = Gathering(lambda: crowded, at_once)
    for name in decoding:
        made.ran(SESSIONS[name])
    return made


def shares(names: str) -> list[Share]:
    """What these sessions would put into a forward."""
    return plan([SESSIONS[name] for name in names], 100, WIDTH)


SESSIONS = {name: session(name, 1) for name in "abcdefgh"}


@pytest.mark.parametrize(
    ("waiting", "at_once", "enough"),
    [("a", 2, False), ("abc", 2, False), ("abcd", 2, True), ("abcdefgh", 2, True), ("abcd", 1, False), ("ab", 4, True)],
)
def test_on_a_crowded_machine_each_forward_at_once_gets_its_share_of_the_sessions(
    waiting: str, at_once: int, enough: bool
) -> None:
    made = gathering(*"abcdefgh", at_once=at_once)
    assert made.enough(shares(waiting)) == enough


def test_many_are_enough_whoever_else_may_come() -> None:
    many = [session(f"m{n}", 1) for n in range(100)]
    made = gathering(at_once=1)
    for each in many:
        made.ran(each)
    assert not made.enough(plan(many[:7], 100, WIDTH))
    assert made.enough(plan(many[:8], 100, WIDTH))


def test_a_peer_that_has_its_cores_for_itself_starts_at_once() -> None:
    assert gathering(*"abcdefgh", crowded=False).enough(shares("a"))


def test_one_session_waits_for_nobody() -> None:
    assert gathering("a").enough(shares("a"))
    assert gathering().enough(shares("a"))


def test_nobody_waits_for_those_who_have_gone() -> None:
    made = gathering(*"abcdefgh")
    for name in "bcdefgh":
        made.forget(SESSIONS[name])
    assert made.enough(shares("a"))


def test_a_prompt_waits_for_nobody() -> None:
    assert gathering(*"abcdefgh").enough(plan([SESSIONS["a"], session("prompt", 100)], 100, WIDTH))


@pytest.mark.parametrize(
    ("all_s", "own_s", "expected"), [(2.0, 0.5, True), (2.0, 1.9, False), (1.0, 0.0, False), (1.9, 1.0, True)]
)
def test_a_machine_is_crowded_when_others_use_what_is_left(all_s: float, own_s: float, expected: bool) -> None:
    assert crowded(all_s, own_s, cores_s=2.0) == expected


def test_a_machine_stays_crowded_until_the_cores_are_clearly_free() -> None:
    busy = [2.0, 1.2, 1.2, 0.4, 1.2]  # of two cores, in each second; half of it is this process's
    readings = iter(
        [Usage(0.0, 0.0, 0.0), *(Usage(n + 1.0, sum(busy[: n + 1]), sum(busy[: n + 1]) / 2) for n in range(5))]
    )
    crowding = Crowding(lambda: next(readings), cores=2)
    assert [crowding() for _ in busy] == [True, True, True, False, False]


def test_the_use_is_looked_at_now_and_then_only() -> None:
    readings = iter([Usage(0.0, 0.0, 0.0), Usage(0.4, 0.8, 0.0)])
    clock = iter([0.1, 0.4])
    crowding = Crowding(lambda: next(readings), cores=2, clock=lambda: next(clock))
    assert [crowding(), crowding()] == [False, True]


def test_this_machine_tells_its_use() -> None:
    before, after = Usage.now(), Usage.now()
    assert 0 < before.at <= after.at
    assert 0 < before.own_s <= after.own_s <= after.all_s
