"""Which peers a session runs over: a shortest path over block borders. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from shared.errors import CacheFull, NoRoute, OutOfCache
from shared.types import BlockRange, PeerId, Span

Route = tuple[Span, ...]


@dataclass(frozen=True, slots=True)
class Candidate:
    """A live peer, as routing sees it."""

    peer: PeerId
    blocks: BlockRange
    block_s: float
    """Seconds that one token takes in one block, with the load and the slowness that the peer has now."""
    hop_s: float
    """Seconds that a step takes to get there."""
    room_tokens: int
    """The longest session that it can open now."""
    longest_tokens: int
    """The longest session that it could open if it held no other."""
    load: float = 1.0
    """How many times as long as one session alone its sessions take."""
    slowness: float = 1.0
    """How many times slower than announced it has been of late."""
    numerics: str = ""
    """What decides its arithmetic, as it says."""

    @property
    def announced_block_s(self) -> float:
        """Seconds that one token takes in one block, by the peer's own word, for one session alone."""
        return self.block_s / (self.load * self.slowness)


def choose_route(candidates: Iterable[Candidate], model: str, wanted: BlockRange, reserve: int) -> Route:
    """Cheapest spans that cover the `wanted` blocks, each on another peer with room for `reserve` tokens.

    Raises NoRoute with the first hole, CacheFull, or OutOfCache when not even idle peers could hold so many.
    """
    everyone = list(candidates)
    near = [each for each in everyone if each.blocks.start < wanted.end and each.blocks.end > wanted.start]
    spans = _cheapest([each for each in near if each.room_tokens >= reserve], wanted)
    if spans:
        return _merge(spans)
    check_possible(everyone, model, wanted, reserve)
    raise CacheFull(f"the peers of {model} are full: none have room for {reserve} tokens in blocks {wanted} now")


def numerics_of(route: Route, candidates: Iterable[Candidate]) -> str:
    """What decides the arithmetic of a chain over this route: the same text for the same kinds of peers."""
    peers = {span.peer for span in route}
    return ", ".join(sorted({each.numerics for each in candidates if each.peer in peers}))


def check_possible(candidates: Iterable[Candidate], model: str, wanted: BlockRange, reserve: int) -> None:
    """Raises NoRoute or OutOfCache when no spans could hold `reserve` tokens even if nobody held any."""
    everyone = list(candidates)
    if hole := hole_within((each.blocks for each in everyone), wanted):
        raise NoRoute(model, hole)
    longest = _longest_session(everyone, wanted)
    if longest < reserve:
        raise OutOfCache(
            f"prompt and answer would take {reserve} tokens of cache, and no peers of {model} hold more than {longest} "
            "for one session: shorten the messages or lower max_tokens"
        )


def first_hole(ranges: Iterable[BlockRange], blocks: int) -> BlockRange | None:
    """The first blocks of [0, blocks) that no range holds."""
    return hole_within(ranges, BlockRange(0, blocks))


def hole_within(ranges: Iterable[BlockRange], wanted: BlockRange) -> BlockRange | None:
    """The first of the `wanted` blocks that no range holds."""
    covered = wanted.start
    for each in sorted(ranges):
        if covered >= wanted.end:
            return None
        if each.start > covered:
            return BlockRange(covered, min(each.start, wanted.end))
        covered = max(covered, each.end)
    return BlockRange(covered, wanted.end) if covered < wanted.end else None


def covered_blocks(ranges: Iterable[BlockRange], blocks: int) -> int:
    """How many of [0, blocks) at least one range holds."""
    return len({block for each in ranges for block in range(each.start, min(each.end, blocks))})


def _longest_session(candidates: list[Candidate], wanted: BlockRange) -> int:
    """Tokens that some route over candidates without holes could hold: the widest of all narrowest places."""
    able: list[BlockRange] = []
    for each in sorted(candidates, key=lambda each: each.longest_tokens, reverse=True):
        able.append(each.blocks)
        if not hole_within(able, wanted):
            return each.longest_tokens
    return 0


def _cheapest(candidates: list[Candidate], wanted: BlockRange) -> list[Span] | None:
    """Dijkstra's relaxation in the order of the borders, since every span leads upwards."""
    ends = (border for each in candidates for border in (each.blocks.start, each.blocks.end))
    borders = sorted({wanted.start, wanted.end, *(each for each in ends if wanted.start < each < wanted.end)})
    best: dict[int, tuple[float, list[Span]]] = {wanted.start: (0.0, [])}
    for start in borders:
        if start not in best:
            continue
        cost, spans = best[start]
        for each in candidates:
            if not each.blocks.start <= start < each.blocks.end:
                continue
            for end in (border for border in borders if start < border <= each.blocks.end):
                total = cost + each.hop_s + each.block_s * (end - start)
                if end not in best or total < best[end][0]:
                    best[end] = (total, [*spans, Span(each.peer, BlockRange(start, end))])
    return best[wanted.end][1] if wanted.end in best else None


def _merge(spans: list[Span]) -> Route:
    """One span for each peer: what lies between two spans of one peer is held by that peer too."""
    merged: list[Span] = []
    for span in spans:
        earlier = next((index for index, each in enumerate(merged) if each.peer == span.peer), None)
        if earlier is None:
            merged.append(span)
        else:
            merged[earlier:] = [Span(span.peer, BlockRange(merged[earlier].blocks.start, span.blocks.end))]
    return tuple(merged)
