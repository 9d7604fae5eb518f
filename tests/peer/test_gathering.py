from __future__ import annotations

import pytest

from peer.crowding import Crowding, crowded
from peer.gathering import Gathering
from tests.peer.queues import session


def gathering(*decoding: str, crowded: bool = True, at_once: int = 2) -> Gathering:
    """For a peer on which these sessions have just decoded."""
    made = Gathering(lambda: crowded, at_once)
    for name in decoding:
        made.ran(SESSIONS[name])
    return made


SESSIONS = {name: session(name, 1) for name in "abcdefgh"}


@pytest.mark.parametrize(
    ("waiting", "at_once", "enough"),
    [("a", 2, False), ("abc", 2, False), ("abcd", 2, True), ("abcdefgh", 2, True), ("abcd", 1, False), ("ab", 4, True)],
)
def test_on_a_crowded_machine_each_forward_at_once_gets_its_share_of_the_sessions(
    waiting: str, at_once: int, enough: bool
) -> None:
    made = gathering(*"abcdefgh", at_once=at_once)
    assert made.enough([SESSIONS[name] for name in waiting]) == enough


def test_a_peer_that_has_its_cores_for_itself_starts_at_once() -> None:
    assert gathering(*"abcdefgh", crowded=False).enough([SESSIONS["a"]])


def test_one_session_waits_for_nobody() -> None:
    assert gathering("a").enough([SESSIONS["a"]])
    assert gathering().enough([SESSIONS["a"]])


def test_nobody_waits_for_those_who_have_gone() -> None:
    made = gathering(*"abcdefgh")
    for name in "bcdefgh":
        made.forget(SESSIONS[name])
    assert made.enough([SESSIONS["a"]])


def test_a_prompt_waits_for_nobody() -> None:
    assert gathering(*"abcdefgh").enough([SESSIONS["a"], session("prompt", 100)])


@pytest.mark.parametrize(
    ("all_s", "own_s", "expected"), [(2.0, 0.5, True), (2.0, 1.9, False), (1.0, 0.0, False), (1.9, 1.0, True)]
)
def test_a_machine_is_crowded_when_others_use_what_is_left(all_s: float, own_s: float, expected: bool) -> None:
    assert crowded(all_s, own_s, cores_s=2.0) == expected


def test_the_use_of_the_cores_is_looked_at_now_and_then() -> None:
    clock = iter(range(100))
    looks = Crowding(lambda: float(next(clock)))
    assert isinstance(looks(), bool)
