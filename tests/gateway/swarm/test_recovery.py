"""Plans of recovery, checked by what each hop then receives: every set of dead hops of routes up to five."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence

import pytest

from gateway.swarm.recovery import Standing, kept_lengths, plan
from gateway.swarm.routing import Route
from shared.errors import NoRoute
from shared.types import BlockRange, PeerId, Span

END = 6
STANDINGS = (
    None,  # dead
    Standing(length=6, shallowest=0, outbox_from=0),
    Standing(length=6, shallowest=5, outbox_from=4),  # a sliding layer, and an outbox that was dropped once
    Standing(length=6, shallowest=2, outbox_from=6),
    Standing(length=3, shallowest=0, outbox_from=2),
    Standing(length=3, shallowest=5, outbox_from=0),  # rolled back behind what a sliding layer holds
)
Hops = tuple[Standing | None, ...]


def routes(longest: int) -> Iterator[Hops]:
    """All ways in which the hops of routes up to this length can stand."""
    return itertools.chain.from_iterable(itertools.product(STANDINGS, repeat=hops) for hops in range(1, longest + 1))


def may_keep(standing: Standing | None, length: int) -> bool:
    """Whether a hop's cache is right for so many positions, and can be cropped to them."""
    return length == 0 or (standing is not None and standing.shallowest <= length <= standing.length)


def holds(standing: Standing | None, start: int) -> bool:
    """Whether a hop's outbox holds what it made of positions from `start` on."""
    return standing is not None and standing.outbox_from <= start


def received(hops: Sequence[Standing | None], lengths: Sequence[int]) -> Iterator[list[int]]:
    """The positions that arrive at each hop, when each keeps its length and sends on what the next one lacks."""
    arriving = list(range(lengths[0], END))  # the gateway has the token ids
    for standing, length, needed in zip(hops, lengths, (*lengths[1:], 0), strict=True):
        yield arriving
        again = list(range(needed, length)) if holds(standing, needed) else []
        arriving = [*again, *(position for position in arriving if position >= needed)]


@pytest.mark.parametrize("answered", [END - 1, END])
def test_every_hop_receives_all_that_it_lacks_and_nothing_twice(answered: int) -> None:
    for hops in routes(longest=5):
        lengths = kept_lengths(hops, answered)
        assert all(map(may_keep, hops, lengths)), hops
        for length, arriving in zip(lengths, received(hops, lengths), strict=True):
            assert arriving == list(range(length, END)), hops
        assert lengths[-1] <= answered, "the last hop makes the rows that are wanted"


def possible(hops: Hops, needed: int, answered: int) -> Iterator[tuple[int, ...]]:
    """By trying: all that hops can keep when the one after them lacks what was made of positions from `needed` on."""
    if not hops:
        yield ()
        return
    for length in range(answered + 1):
        if may_keep(hops[-1], length) and (length <= needed or holds(hops[-1], needed)):
            yield from ((*earlier, length) for earlier in possible(hops[:-1], length, answered))


@pytest.mark.parametrize("answered", [END - 1, END])
def test_nothing_is_run_again_that_need_not_be(answered: int) -> None:
    """There is no other way to go on in which any hop keeps more of its cache."""
    for hops in routes(longest=3):
        most = tuple(max(lengths) for lengths in zip(*possible(hops, answered, answered), strict=True))
        assert tuple(kept_lengths(hops, answered)) == most, hops


HOPS = tuple(Span(PeerId(f"hop{number}"), BlockRange(2 * number, 2 * number + 2)) for number in range(5))
ALIVE = Standing(length=END, shallowest=0, outbox_from=0)


def split(blocks: BlockRange) -> Route:
    """A spare for each block."""
    return tuple(
        Span(PeerId(f"spare{block}"), BlockRange(block, block + 1)) for block in range(blocks.start, blocks.end)
    )


def one(blocks: BlockRange) -> Route:
    return (Span(PeerId(f"spare{blocks}"), blocks),)


@pytest.mark.parametrize("replace", [one, split])
@pytest.mark.parametrize("hops", range(1, 6))
def test_the_new_route_has_all_blocks_and_every_hop_that_lives(
    hops: int, replace: Callable[[BlockRange], Route]
) -> None:
    for alive in itertools.product((True, False), repeat=hops):
        living = {span.peer: ALIVE for span, lives in zip(HOPS, alive, strict=False) if lives}
        orders = plan(HOPS[:hops], living, replace, END - 1)
        borders = [0, *(order.span.blocks.end for order in orders)]
        assert [order.span.blocks.start for order in orders] == borders[:-1]
        assert borders[-1] == 2 * hops
        assert {order.span for order in orders if not order.fresh} == {s for s in HOPS[:hops] if s.peer in living}
        assert {order.length for order in orders if order.fresh} <= {0}


def test_dead_hops_that_stand_together_are_replaced_together() -> None:
    asked: list[BlockRange] = []
    living = {HOPS[0].peer: ALIVE, HOPS[3].peer: ALIVE}
    plan(HOPS, living, lambda blocks: asked.append(blocks) or one(blocks), END)
    assert asked == [BlockRange(2, 6), BlockRange(8, 10)]


def test_each_hop_sends_on_what_the_next_one_lacks() -> None:
    hops = {HOPS[0].peer: Standing(6, 0, 0), HOPS[1].peer: Standing(5, 0, 0), HOPS[3].peer: Standing(4, 0, 0)}
    orders = plan(HOPS[:4], hops, one, END - 1)
    assert [(order.length, order.forward_from) for order in orders] == [(5, 5), (5, 0), (0, 4), (4, 0)]


def test_blocks_that_nobody_serves_are_told() -> None:
    def nobody(blocks: BlockRange) -> Route:
        raise NoRoute("tests/Tiny", blocks)

    with pytest.raises(NoRoute, match="2:4"):
        plan(HOPS, {span.peer: ALIVE for span in HOPS if span != HOPS[1]}, nobody, END)
