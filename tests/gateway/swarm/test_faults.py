"""Who is at fault: every rule of `judge` and `suspect`."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import pytest

from gateway.swarm.faults import AGAIN_CODES, AGAIN_LIMIT, QUIET_S, STUCK_FORWARDS, STUCK_S, Faults, Look, suspect
from gateway.swarm.relay import RelayedEdges
from shared.errors import HopFailed
from shared.types import BlockRange, PeerId, Span
from shared.wire import Report

ME = PeerId("me")
PEERS = A, B, C = PeerId("a"), PeerId("b"), PeerId("c")
ROUTE = tuple(Span(peer, BlockRange(block, block + 1)) for block, peer in enumerate(PEERS))
END = 10
FORWARD_S = 0.01


def excluded(*errors: HopFailed, relayed: RelayedEdges | None = None) -> Collection[PeerId]:
    """Who is excluded after these failures, in order."""
    faults = Faults(ME, RelayedEdges() if relayed is None else relayed)
    for error in errors:
        faults.judge(error, ROUTE)
    return faults.excluded


def says(teller: PeerId | None, code: str, peer: PeerId) -> HopFailed:
    return HopFailed(peer, code, "a sentence", teller)


@pytest.mark.parametrize("code", ["deadline", "not_finite", "forward", "wrong_model", "protocol", "anything"])
def test_a_hop_that_fails_is_excluded_at_once(code: str) -> None:
    assert set(excluded(says(None, code, B))) == {B}
    assert set(excluded(says(B, code, B))) == {B}


def test_a_peer_that_is_gone_is_never_excluded() -> None:
    assert not excluded(*[says(None, "lost", B)] * 5)


@pytest.mark.parametrize("code", sorted(AGAIN_CODES))
def test_orders_that_were_overtaken_are_given_again_before_anybody_is_excluded(code: str) -> None:
    assert not excluded(*[says(B, code, B)] * AGAIN_LIMIT)
    assert set(excluded(*[says(B, code, B)] * (AGAIN_LIMIT + 1))) == {B}


def test_a_hop_is_not_excluded_for_what_it_says_of_the_gateway() -> None:
    assert set(excluded(says(B, "not_finite", ME))) == {B}
    assert not excluded(says(None, "not_finite", ME))


def test_a_peer_beyond_the_route_is_not_excluded_on_a_hops_word() -> None:
    assert set(excluded(says(B, "not_finite", PeerId("innocent")))) == {B}


def test_a_lost_edge_is_made_again_then_relayed_and_then_a_hop_is_at_fault() -> None:
    relayed, lost = RelayedEdges(), says(B, "edge_lost", A)
    assert not excluded(lost, relayed=relayed)
    assert (A, B) not in relayed
    assert not excluded(lost, lost, relayed=relayed)
    assert (A, B) in relayed
    assert (B, A) in relayed
    assert set(excluded(lost, lost, relayed=relayed)) == {A}


@pytest.mark.parametrize("code", ["unreachable", "edge_silent"])
def test_an_edge_that_cannot_be_made_or_carries_nothing_is_relayed_at_once(code: str) -> None:
    relayed = RelayedEdges()
    assert not excluded(says(A, code, B), relayed=relayed)
    assert (A, B) in relayed
    assert set(excluded(says(A, code, B), relayed=relayed)) == {B}


def test_a_hop_that_complains_of_many_is_at_fault_itself() -> None:
    relayed = RelayedEdges()
    relayed.add((A, B))
    relayed.add((B, C))
    quarrels = [says(B, "unreachable", A), says(B, "unreachable", C)]
    assert set(excluded(*quarrels, relayed=relayed)) == {A, B}


def test_a_hop_that_the_gateway_itself_cannot_reach_is_excluded() -> None:
    assert set(excluded(says(None, "unreachable", A))) == {A}


def test_an_edge_of_the_gateways_own_that_carries_nothing_is_made_again_first() -> None:
    silent = says(None, "edge_silent", A)
    assert not excluded(silent)
    assert set(excluded(silent, silent)) == {A}


def test_a_hop_that_says_it_cannot_reach_the_gateway_is_excluded() -> None:
    assert set(excluded(says(C, "unreachable", ME))) == {C}


def test_an_output_forgives_hops_but_not_edges() -> None:
    faults = Faults(ME, RelayedEdges())
    faults.judge(says(None, "deadline", B), ROUTE)
    faults.judge(says(A, "unreachable", C), ROUTE)
    faults.forget()
    assert not faults.excluded
    assert (A, C) in faults.relayed


def report(**fields: Any) -> Report:
    idle = {"heard_ms": 5000, "queued": 0, "running": False, "blocked": False, "forward_ms": 0, "forwards": 7}
    about = {"session": "0" * 32, "number": 1, "epoch": 1, "round": 1, "length": 0, "shallowest": 0, "outbox_from": 0}
    return Report(**{**about, **idle, **fields})


def look(a: int, b: int, c: int, **of_b: Any) -> Look:
    """Lengths of the three hops, and what the second one says."""
    return Look({A: report(), B: report(**of_b), C: report()}, {A: a, B: b, C: c})


def found(now: Look, earlier: Look | None, heard_s: float = 5.0) -> tuple[str, PeerId, PeerId | None] | None:
    error = suspect(ROUTE, END, now, earlier, lambda peer: FORWARD_S, output_heard_s=heard_s)
    return (error.code, error.peer, error.teller) if error else None


def test_at_a_first_look_nobody_is_suspected() -> None:
    assert found(look(END, 4, 4), None) is None
    assert found(look(END, END, END), None) is None


def test_a_hop_with_nothing_to_do_points_at_the_edge_before_it() -> None:
    assert found(look(END, 4, 4), look(END, 4, 4)) == ("edge_silent", B, A)
    assert found(look(4, 4, 4), look(4, 4, 4)) == ("edge_silent", A, None)


def test_a_hop_with_steps_that_it_does_not_run_is_at_fault() -> None:
    stuck = look(END, 4, 4, queued=2)
    assert found(stuck, stuck) == ("deadline", B, None)


@pytest.mark.parametrize(
    "busy", [{"forwards": 8}, {"forward_ms": 500}, {"running": True, "forward_ms": 500}], ids=["others", "one", "this"]
)
def test_a_hop_that_computes_is_given_time(busy: dict[str, Any]) -> None:
    assert found(look(END, 4, 4, queued=1, **busy), look(END, 4, 4, queued=1)) is None


def test_a_forward_that_takes_far_too_long_is_at_fault_at_a_first_look() -> None:
    too_long_ms = round(1000 * max(STUCK_S, STUCK_FORWARDS * FORWARD_S)) + 1
    assert found(look(END, 4, 4, running=True, forward_ms=too_long_ms), None) == ("deadline", B, None)
    assert found(look(END, 4, 4, running=True, forward_ms=too_long_ms - 1), None) is None


def test_a_slow_peer_is_given_time_by_its_own_pace() -> None:
    now = look(END, 4, 4, running=True, forward_ms=5000)
    assert suspect(ROUTE, END, now, None, lambda peer: 1.0, output_heard_s=5.0) is None


def test_a_hop_that_has_come_further_is_not_suspected() -> None:
    assert found(look(END, 5, 4), look(END, 4, 4)) is None


def test_behind_a_hop_that_cannot_send_the_next_one_is_looked_at() -> None:
    blocked = look(END, 4, 4, blocked=True, queued=3)
    assert found(blocked, blocked) == ("edge_silent", C, B)


def test_an_output_that_was_sent_and_does_not_come_is_the_last_hops_fault() -> None:
    assert found(look(END, END, END), look(END, END, END)) == ("edge_silent", C, None)
    assert found(look(END, END, END), look(END, END, 9)) is None


def test_an_edge_on_which_a_long_frame_is_coming_carries_something() -> None:
    coming = look(END, 4, 4, heard_ms=round(900 * QUIET_S))
    assert found(coming, coming) is None
    assert found(look(END, END, END), look(END, END, END), heard_s=0.9 * QUIET_S) is None
