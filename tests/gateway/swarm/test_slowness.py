"""When a hop is left because it is slow, and how long a gateway holds its slowness against it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from gateway.swarm.routing import Candidate, choose_route
from gateway.swarm.slowness import FACTOR_LIMIT, HALF_LIFE_S, MEMORY_CAPACITY, HopSpeeds, Slowness, worth_leaving
from shared.types import BlockRange, PeerId, Span

BLOCK_S = 0.01


def peer(name: str, blocks: str, **fields: float) -> Candidate:
    announced = Candidate(PeerId(name), BlockRange.parse(blocks), BLOCK_S, 0.001, 10_000, 10_000)
    return replace(announced, **fields)


A, B, C = peer("a", "0:10"), peer("b", "10:20"), peer("c", "20:30")
SPARE = peer("spare", "10:20")
ROUTE = tuple(Span(each.peer, each.blocks) for each in (A, B, C))


def speeds(times: dict[str, float], steps: int = 8) -> HopSpeeds:
    """Each hop as fast as announced, but so many times slower as is said."""
    measured = HopSpeeds()
    for span in ROUTE:
        forward_us = round(1e6 * BLOCK_S * len(span.blocks) * times.get(span.peer, 1))
        for _ in range(steps):
            measured.observe(span.peer, (50_000_000, forward_us))  # a queue, however long, is load and not slowness
    return measured


def left_for(*spares: Candidate, tokens: int = 200, left: int = 500, **times: float) -> str | None:
    return worth_leaving(ROUTE, speeds(times), [A, B, C, *spares], tokens, left)


def test_a_hop_ten_times_slower_than_its_spare_is_left() -> None:
    assert left_for(SPARE, b=10) == "b"


def test_nobody_is_left_without_a_spare_that_holds_all_its_blocks() -> None:
    assert left_for(b=10) is None
    assert left_for(peer("half", "10:15"), b=10) is None


def test_two_that_cover_a_slow_hop_together_are_as_good_as_one() -> None:
    assert left_for(peer("half", "10:15"), peer("rest", "15:20"), b=10) == "b"


def test_a_hop_that_is_hardly_slower_than_its_spare_stays() -> None:
    assert left_for(SPARE, b=2.9) is None
    assert left_for(SPARE, b=3.1) == "b"


def test_of_two_slow_hops_the_one_whose_move_saves_more_is_left() -> None:
    assert left_for(peer("spare", "0:20"), a=10, b=20) == "b"


@pytest.mark.parametrize(("tokens", "left"), [(200, 2), (30_000, 100)])
def test_what_a_move_would_cost_more_than_it_saves_is_not_done(tokens: int, left: int) -> None:
    """900 ms a token are saved; a move takes half a second, and 5 ms for each token that is replayed."""
    assert left_for(SPARE, b=10, tokens=tokens, left=left) is None


def test_a_spare_far_away_is_no_gain() -> None:
    assert left_for(peer("spare", "10:20", hop_s=1.0), b=10) is None


def test_a_spare_without_room_for_the_session_is_none() -> None:
    assert left_for(peer("spare", "10:20", room_tokens=699), b=10) is None
    assert left_for(peer("spare", "10:20", room_tokens=700), b=10) == "b"


@pytest.mark.parametrize("steps", [0, 3])
def test_nothing_is_said_before_four_steps(steps: int) -> None:
    assert worth_leaving(ROUTE, speeds({"b": 10}, steps), [A, B, C, SPARE], 200, 500) is None


def test_steps_that_took_a_prompt_along_do_not_make_a_hop_slow() -> None:
    measured = speeds({})
    for _ in range(5):
        measured.observe(B.peer, (0, 2_000_000))
    assert worth_leaving(ROUTE, measured, [A, B, C, SPARE], 200, 500) is None
    for _ in range(3):
        measured.observe(B.peer, (0, 2_000_000))
    assert worth_leaving(ROUTE, measured, [A, B, C, SPARE], 200, 500) == "b"


def test_a_hop_with_many_sessions_is_loaded_and_not_slow() -> None:
    busy = replace(B, load=4.0, block_s=4 * BLOCK_S)
    assert worth_leaving(ROUTE, speeds({"b": 4}), [A, busy, C, SPARE], 200, 500) is None
    assert worth_leaving(ROUTE, speeds({"b": 16}), [A, busy, C, SPARE], 200, 500) == "b"


def test_where_every_hop_is_slow_an_untried_spare_is_taken_to_be_slow_too() -> None:
    assert left_for(SPARE, a=8, b=8, c=8) is None
    assert left_for(SPARE, a=8, b=80, c=8) == "b"


def test_a_spare_that_has_proved_slow_is_no_better() -> None:
    assert left_for(replace(SPARE, slowness=5.0, block_s=5 * BLOCK_S), b=10) is None


def test_a_hop_that_is_draining_or_lost_is_left_to_others() -> None:
    assert worth_leaving(ROUTE, speeds({"b": 10}), [A, C, SPARE], 200, 500) is None


def test_slowness_is_learned_fades_and_is_bounded() -> None:
    slowness = Slowness()
    slow, quick = PeerId("slow"), PeerId("quick")
    for _ in range(100):
        slowness.observe(slow, 10.0, now=0.0)
        slowness.observe(quick, 0.1, now=0.0)
    assert slowness.factor(slow, 0.0) == pytest.approx(10, rel=0.01)
    assert slowness.factor(slow, HALF_LIFE_S) == pytest.approx(10**0.5, rel=0.01)
    assert slowness.factor(slow, 10 * HALF_LIFE_S) < 1.01
    assert slowness.factor(quick, 0.0) == slowness.factor(PeerId("unknown"), 0.0) == 1
    for _ in range(1000):
        slowness.observe(slow, float("inf"), now=0.0)
    assert slowness.factor(slow, 0.0) <= FACTOR_LIMIT


def test_one_disturbed_step_is_not_held_against_a_peer() -> None:
    slowness = Slowness()
    slowness.observe(PeerId("a"), 10.0, now=0.0)
    assert slowness.factor(PeerId("a"), 0.0) < 1.6


def test_the_slowness_of_many_peers_takes_bounded_memory_and_keeps_the_latest() -> None:
    slowness = Slowness()
    for number in range(2 * MEMORY_CAPACITY):
        slowness.observe(PeerId(str(number)), 100.0, now=float(number) / 1000)
    kept = [number for number in range(2 * MEMORY_CAPACITY) if slowness.factor(PeerId(str(number)), 2.0) > 1]
    assert kept == list(range(MEMORY_CAPACITY, 2 * MEMORY_CAPACITY))


def test_new_sessions_go_around_a_peer_that_has_proved_slow() -> None:
    proved = replace(B, slowness=10.0, block_s=10 * BLOCK_S)
    worse = peer("worse", "10:20", block_s=2 * BLOCK_S)
    assert [each.peer for each in choose_route([A, proved, worse, C], "model", BlockRange(0, 30), 10)][1] == "worse"
