"""Copies of caches that wait: whose is next, and what they hold meanwhile."""

from __future__ import annotations

import pytest

from peer.forks import Forks
from peer.sessions import Session
from shared.types import PeerId
from tests.peer.queues import session


@pytest.fixture
def forks() -> Forks:
    return Forks()


def of(gateway: str, name: str) -> Session:
    made = session(f"{gateway} {name}")
    made.gateway = PeerId(gateway)
    return made


def ask(forks: Forks, gateway: str, count: int) -> tuple[Session, list[Session]]:
    """A session of this gateway, and others that are to be copies of it."""
    parent, copies = of(gateway, "parent"), [of(gateway, str(number)) for number in range(count)]
    for copy in copies:
        forks.add(copy, parent)
    return parent, copies


def test_gateways_take_turns(forks: Forks) -> None:
    ask(forks, "greedy", 5)
    ask(forks, "late", 2)
    order = []
    while forks.any_wait:
        order.append(forks.begin().session.id)
    assert order == ["greedy 0", "late 0", "greedy 1", "late 1", "greedy 2", "greedy 3", "greedy 4"]


def test_both_sessions_are_held_until_the_last_copy_is_over(forks: Forks) -> None:
    parent, (first, second) = ask(forks, "gateway", 2)
    fork = forks.begin()
    assert all(map(forks.holds, (parent, first, second)))
    forks.end(fork)
    assert fork.over.is_set()
    assert (forks.holds(first), forks.holds(parent)) == (False, True)
    forks.end(forks.begin())
    assert not forks.holds(parent)


def test_what_waits_can_be_withdrawn_and_what_has_begun_cannot(forks: Forks) -> None:
    parent, (first, second) = ask(forks, "gateway", 2)
    begun, waiting = forks.begin(), forks.of(second)
    assert forks.withdraw(first) is None
    assert forks.withdraw(second) is waiting
    assert waiting is not None
    assert waiting.over.is_set()
    assert (forks.any_wait, forks.holds(parent), forks.of(first)) == (False, True, begun)
