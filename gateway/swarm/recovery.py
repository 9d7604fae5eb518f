"""How a chain goes on after hops are gone: from what the others say they have to an order for each hop. Pure.

What a hop has made is kept in its outbox, and the gateway has the token ids: so whatever is lost behind a hop can be
made again from what that hop sends once more, and no hop before it, nor the cache of any after it, is touched.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby

from gateway.swarm.routing import Route
from shared.types import BlockRange, PeerId, SessionId, Span


@dataclass(frozen=True, slots=True)
class Standing:
    """What of a hop that answers is still of use.

    Its cache is right for positions [0, `length`) and can be cropped to 0, or to any position from `shallowest` on; its
    outbox holds what was made of [`outbox_from`, `length`).
    """

    length: int
    shallowest: int
    outbox_from: int


@dataclass(frozen=True, slots=True)
class Order:
    """What a hop shall do: keep [0, `length`) of its cache, and send on what it makes of positions from `forward_from`.

    A `fresh` hop has no session yet; where it has its `parent`, it begins with a copy of `length` tokens of that.
    """

    span: Span
    length: int
    forward_from: int
    fresh: bool
    parent: SessionId | None = None


def plan(
    route: Route, standings: Mapping[PeerId, Standing], replace: Callable[[BlockRange], Route], answered: int
) -> tuple[Order, ...]:
    """Orders for a route on which every hop without a standing is replaced; the gateway goes on where the first ends.

    `replace` finds spans for blocks, and raises NoRoute or OutOfCache. Of positions below `answered` no outputs are
    needed any more.
    """
    hops = tuple(_hops(route, standings, replace))
    found = [standings.get(span.peer) if kept else None for span, kept in hops]
    lengths = kept_lengths(found, answered)
    return tuple(
        Order(span, length, forward_from, fresh=not kept)
        for (span, kept), length, forward_from in zip(hops, lengths, (*lengths[1:], 0), strict=True)
    )


def kept_lengths(standings: Sequence[Standing | None], answered: int) -> list[int]:
    """How much of its cache each hop keeps; None stands for a hop that begins anew.

    From the last to the first: a hop whose cache reaches further than the next one's must send the difference again. If
    it has dropped that, it runs it again, and so needs it again itself.
    """
    lengths: list[int] = []
    needed = answered
    for standing in reversed(standings):
        needed = _kept(standing, needed, answered)
        lengths.append(needed)
    return lengths[::-1]


def _kept(standing: Standing | None, needed: int, answered: int) -> int:
    """The cache that a hop keeps when the next one lacks what was made of positions from `needed` on."""
    if standing is None:
        return 0
    length = min(standing.length, answered)
    if length < standing.shallowest:  # a rollback, or the crop for the row that is wanted, goes deeper than that
        return 0
    if length <= needed or standing.outbox_from <= needed:
        return length
    return needed if needed >= standing.shallowest else 0


def _hops(
    route: Route, standings: Mapping[PeerId, Standing], replace: Callable[[BlockRange], Route]
) -> Iterator[tuple[Span, bool]]:
    """The new route's spans, and whether each was on the old one and lives."""
    for kept, spans in groupby(route, lambda span: span.peer in standings):
        old = list(spans)
        new = old if kept else replace(BlockRange(old[0].blocks.start, old[-1].blocks.end))
        yield from ((span, kept) for span in new)
