"""What neighbours and announcers may do, without a network."""

from __future__ import annotations

import logging
import time

import pytest

from shared.announcement import seal, unseal
from shared.errors import ProtocolError
from shared.identity import Identity
from shared.libp2p_node.conduct import ANNOUNCEMENTS_BURST, MESSAGES_BURST, Conduct
from tests.shared.announcements import announcement
from tests.shared.clock import Clock
from tests.shared.test_announcement import FIELDS, signed

ANN, EVE = Identity.from_seed(b"a" * 32), Identity.from_seed(b"e" * 32)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def conduct(clock: Clock) -> Conduct:
    return Conduct(clock)


def refuse(conduct: Conduct, record: bytes) -> None:
    """What a node does with a record that Eve passes on and that cannot be accepted."""
    with pytest.raises(ProtocolError) as error:
        unseal(record, time.time())
    conduct.refused(EVE.peer, record, error.value)


@pytest.mark.parametrize(
    "record",
    [
        b"",
        b"\x00" * 300,
        signed(FIELDS)[:-1],
        signed(FIELDS) + b"x",
        signed(FIELDS, EVE),  # Ann's announcement, which Eve has signed
        signed({**FIELDS, "name": "otter"})[:64] + signed(FIELDS)[64:],
        signed([]),
    ],
)
def test_who_passes_on_what_nobody_has_signed_is_counted_told_of_once_and_not_heard_for_a_while(
    conduct: Conduct, clock: Clock, caplog: pytest.LogCaptureFixture, record: bytes
) -> None:
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            refuse(conduct, record)
    assert conduct.news() == {"announcement": 3}
    assert [EVE.peer in each.getMessage() for each in caplog.records] == [True]
    assert not conduct.admits(EVE.peer)
    assert conduct.admits(ANN.peer)
    clock.now += 5
    assert conduct.admits(EVE.peer)


@pytest.mark.parametrize(
    "record",
    [
        signed({**FIELDS, "state": "dreaming"}),  # a later version's
        seal(announcement(ANN, issued_at=time.time() + 3600), ANN),
        seal(announcement(ANN, issued_at=time.time() - 3600), ANN),
    ],
)
def test_who_passes_on_what_is_signed_but_cannot_be_accepted_here_is_heard_as_before(
    conduct: Conduct, record: bytes
) -> None:
    refuse(conduct, record)
    assert conduct.news() == {"announcement": 1}
    assert conduct.news() == {}
    assert conduct.admits(EVE.peer)


def test_what_a_neighbour_sends_too_much_of_is_dropped_and_it_is_not_shunned(conduct: Conduct, clock: Clock) -> None:
    """It passes on what many say: each of them may be within the rules."""
    assert all(conduct.admits(EVE.peer) for _ in range(MESSAGES_BURST))
    assert not any(conduct.admits(EVE.peer) for _ in range(100))
    assert conduct.news() == {"flood": 100}
    assert conduct.admits(ANN.peer)
    clock.now += 1
    assert conduct.admits(EVE.peer)


def test_a_node_that_announces_itself_all_the_time_is_not_passed_on(conduct: Conduct, clock: Clock) -> None:
    assert all(conduct.hears(EVE.peer) for _ in range(ANNOUNCEMENTS_BURST))
    assert not conduct.hears(EVE.peer)
    assert conduct.hears(ANN.peer)
    assert conduct.news() == {"flood": 1}


def test_a_node_may_announce_itself_every_two_seconds_for_ever(conduct: Conduct, clock: Clock) -> None:
    for _ in range(2000):
        assert conduct.hears(ANN.peer)
        assert conduct.admits(ANN.peer)
        clock.now += 2
