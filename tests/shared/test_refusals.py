from __future__ import annotations

import logging

import pytest

from shared.errors import (
    BadIdentity,
    CorollaError,
    DeadlinePassed,
    FrameError,
    IsShunned,
    LinkLost,
    PositionGap,
    ProtocolError,
    Refused,
    Untimely,
    VersionMismatch,
)
from shared.identity import Identity
from shared.refusals import KINDS, Refusals, source_of
from shared.shunned import SLIP_S, SLIPS
from shared.types import PeerId
from tests.shared.clock import Clock

EVE = Identity.from_seed(b"e" * 32).peer
HOST = "192.0.2.7"


@pytest.mark.parametrize(
    ("error", "kind", "shunned"),
    [
        (FrameError("x"), "frame", True),
        (ProtocolError("x"), "protocol", True),
        (PositionGap("x"), "protocol", True),
        (Untimely("x"), "untimely", False),
        (VersionMismatch("x"), "version", False),
        (IsShunned(5), "shunned", False),
        (DeadlinePassed("x"), "silence", False),
    ],
)
def test_a_refusal_is_counted_and_held_against_a_proven_sender_if_it_is_his_fault(
    error: CorollaError, kind: str, shunned: bool
) -> None:
    refusals = Refusals(Clock())
    refusals.on_link(EVE, HOST, error)
    assert refusals.counted == {kind: 1}
    assert (EVE in refusals.peers) == shunned
    assert HOST not in refusals.addresses


@pytest.mark.parametrize("error", [LinkLost("x"), Refused("x")])
def test_a_link_that_breaks_or_that_the_other_side_refuses_is_no_refusal(error: CorollaError) -> None:
    refusals = Refusals(Clock())
    refusals.on_link(EVE, HOST, error)
    refusals.on_dialled(EVE, error)
    assert not refusals.counted
    assert EVE not in refusals.peers


@pytest.mark.parametrize("error", [BadIdentity("x"), FrameError("x"), ProtocolError("x")])
def test_what_comes_unproven_is_held_against_its_address_when_it_comes_again_and_again(error: CorollaError) -> None:
    clock = Clock()
    refusals = Refusals(clock)
    for _ in range(SLIPS):
        assert HOST not in refusals.addresses
        clock.now += SLIP_S
        refusals.on_link(PeerId(""), HOST, error)
    assert HOST in refusals.addresses
    assert not len(refusals.peers)


def test_what_an_address_answers_that_this_node_dialled_is_not_held_against_it() -> None:
    """Anybody may announce another's address for his own."""
    clock = Clock()
    refusals = Refusals(clock)
    for _ in range(2 * SLIPS):
        clock.now += SLIP_S
        refusals.on_dialled(PeerId(""), BadIdentity("x"))
    assert refusals.counted["identity"] == 2 * SLIPS
    assert not len(refusals.addresses)


def test_the_log_hears_ever_less_often_of_the_same_kind(caplog: pytest.LogCaptureFixture) -> None:
    refusals = Refusals(Clock())
    with caplog.at_level(logging.INFO):
        for _ in range(1000):
            refusals.on_link(PeerId(""), HOST, VersionMismatch("another swarm"))
    assert len(caplog.records) == 10


def test_what_another_process_counts_is_added_but_for_kinds_that_are_unknown() -> None:
    refusals = Refusals(Clock())
    for counts in ({"flood": 2, "frame": 1}, {"flood": 3, "nonsense": 7, "frame": -5}):
        refusals.add(counts)
    assert {kind: refusals.counted[kind] for kind in KINDS if refusals.counted[kind]} == {"flood": 5, "frame": 1}


@pytest.mark.parametrize(
    ("host", "source"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("::ffff:192.0.2.7", "192.0.2.7"),
        ("2001:db8::1:2:3:4", "2001:db8::/64"),
        ("fe80::7%eth0", "fe80::/64"),
        ("", ""),
    ],
)
def test_all_addresses_that_one_may_have_are_one_source(host: str, source: str) -> None:
    assert source_of(host) == source
