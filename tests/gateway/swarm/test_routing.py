from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.swarm.routing import Candidate, choose_route, covered_blocks, first_hole, numerics_of
from shared.errors import CacheFull, NoRoute, OutOfCache
from shared.types import BlockRange, PeerId, Span


def peer(
    name: str, blocks: str, block_s: float = 0.001, hop_s: float = 0.001, room: int = 1000, longest: int = 1000
) -> Candidate:
    return Candidate(PeerId(name), BlockRange.parse(blocks), block_s, hop_s, room, longest)


def route(*candidates: Candidate, blocks: int = 30, reserve: int = 10) -> list[str]:
    return [f"{span.peer} {span.blocks}" for span in choose_route(candidates, "model", BlockRange(0, blocks), reserve)]


def test_numerics_do_not_tell_who_computes() -> None:
    def about(*kinds: str) -> str:
        peers = [replace(peer(str(index), "0:1"), numerics=kind) for index, kind in enumerate(kinds)]
        spans = tuple(Span(each.peer, each.blocks) for each in peers)
        return numerics_of(spans, [*peers, replace(peer("other", "0:1"), numerics="float16 none float16")])

    assert about("b", "a", "b") == about("a", "b") == "a, b"


def test_one_peer_with_everything_beats_three() -> None:
    assert route(peer("a", "0:10"), peer("b", "10:20"), peer("c", "20:30"), peer("all", "0:30")) == ["all 0:30"]


def test_three_fast_peers_beat_a_slow_one() -> None:
    slow = peer("slow", "0:30", block_s=0.1)
    assert route(slow, peer("a", "0:10"), peer("b", "10:20"), peer("c", "20:30")) == ["a 0:10", "b 10:20", "c 20:30"]


def test_part_of_what_a_peer_holds_is_used() -> None:
    assert route(peer("a", "0:20", block_s=0.1), peer("b", "10:30")) == ["a 0:10", "b 10:30"]


def test_no_peer_serves_two_spans() -> None:
    fast = peer("fast", "10:20", block_s=0.00001, hop_s=0)
    assert route(peer("a", "0:30", block_s=0.1, hop_s=0), fast) == ["a 0:30"]


def test_peers_without_room_are_left_out() -> None:
    full = peer("full", "0:30", room=5)
    assert route(full, peer("b", "0:30", block_s=1)) == ["b 0:30"]
    with pytest.raises(CacheFull):
        route(full)


def test_a_session_that_never_fits_is_told_how_long_one_may_be() -> None:
    small, large = peer("small", "0:20", room=0, longest=300), peer("large", "10:30", room=0, longest=900)
    other = peer("other", "0:10", room=0, longest=700)
    with pytest.raises(CacheFull):
        route(small, large, other, reserve=700)
    with pytest.raises(OutOfCache, match="701 tokens of cache, and no peers of model hold more than 700") as refused:
        route(small, large, other, reserve=701)
    assert not isinstance(refused.value, CacheFull)


def test_a_hole_is_named_before_the_length_of_a_session() -> None:
    with pytest.raises(NoRoute, match="blocks 20:30 "):
        route(peer("a", "0:20", longest=5), reserve=10)


@pytest.mark.parametrize(("held", "hole"), [([], "0:30"), (["0:10", "20:30"], "10:20"), (["0:29"], "29:30")])
def test_the_first_hole_is_named(held: list[str], hole: str) -> None:
    with pytest.raises(NoRoute, match=f"blocks {hole} "):
        route(*(peer(str(index), blocks) for index, blocks in enumerate(held)))


ranges = st.tuples(st.integers(0, 11), st.integers(1, 12)).map(lambda ends: BlockRange(ends[0], ends[0] + ends[1]))


@given(st.lists(st.tuples(ranges, st.floats(0.001, 1), st.floats(0, 1)), max_size=8))
def test_a_route_covers_every_block_once_or_a_hole_is_named(drawn: list[tuple[BlockRange, float, float]]) -> None:
    candidates = [Candidate(PeerId(str(i)), blocks, cost, hop, 100, 100) for i, (blocks, cost, hop) in enumerate(drawn)]
    hole = first_hole([each.blocks for each in candidates], 12)
    assert (hole is None) == (covered_blocks([each.blocks for each in candidates], 12) == 12)
    if hole:
        with pytest.raises(NoRoute, match=f"blocks {hole} "):
            choose_route(candidates, "model", BlockRange(0, 12), 10)
        return
    spans = choose_route(candidates, "model", BlockRange(0, 12), 10)
    assert [block for span in spans for block in range(span.blocks.start, span.blocks.end)] == list(range(12))
    assert len({span.peer for span in spans}) == len(spans)
    assert all(candidates[int(span.peer)].blocks.covers(span.blocks) for span in spans)
