"""How slow peers are, and when that is worth leaving one in the middle of a session. Pure: times are passed in."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from gateway.swarm.routing import Candidate, Route, choose_route
from shared.errors import NoRoute, OutOfCache
from shared.types import PeerId, Span
from shared.wire import HopTime

WINDOW, UNSURE_BELOW = 8, 4
"""Decode steps of a hop that are looked at, and below how many nothing is said of it."""
WORTH_TIMES = 3.0
"""A hop is left for peers that run its blocks so many times faster, not for less: measurements are no better."""
WORTH_COST = 2.0
"""What a move saves must be so many times what it costs."""
MOVE_S = 0.5
MOVE_TRIPS = 6
"""Ways there or back before a replacement runs: a link, an Open, an attach."""
PREFILL_TIMES = 20.0
"""How many times faster a token is in a prompt than alone."""
ROOM_TOKENS = 1024
"""What a session is opened with at most beyond the tokens that it has."""

HALF_LIFE_S = 120.0
MEMORY_WEIGHT = 0.2
FACTOR_LIMIT = 100.0
FADED = 1.05
MEMORY_CAPACITY = 512


class HopSpeeds:
    """What each hop of one chain takes for a decode step, by its own word. A chain that has moved needs a new one."""

    def __init__(self) -> None:
        self._forwards: dict[PeerId, deque[float]] = {}

    def observe(self, peer: PeerId, spent: HopTime) -> None:
        """A decode step has passed this hop. Its wait in the queue is load, mostly of our own making: left out."""
        _, forward_us = spent
        self._forwards.setdefault(peer, deque(maxlen=WINDOW)).append(forward_us / 1e6)

    def forward_s(self, peer: PeerId) -> float | None:
        """Seconds of this hop's forwards of late, None while unsure.

        The lower quartile: a forward that takes somebody's prompt along is long, on a fast peer too.
        """
        recent = sorted(self._forwards.get(peer, ()))
        return recent[(len(recent) - 1) // 4] if len(recent) >= UNSURE_BELOW else None


class Slowness:
    """How many times slower than announced peers have been of late. It fades when a peer is not used any more."""

    def __init__(self) -> None:
        self._logs: dict[PeerId, tuple[float, float]] = {}  # the factor's logarithm, and since when it fades

    def observe(self, peer: PeerId, factor: float, now: float) -> None:
        """A forward took `factor` times as long as its peer's announcement and load explain."""
        if peer not in self._logs and len(self._logs) >= MEMORY_CAPACITY:
            self._forget(now)
        before = math.log(self.factor(peer, now))
        latest = math.log(min(max(factor, 1.0), FACTOR_LIMIT))
        self._logs[peer] = (before + MEMORY_WEIGHT * (latest - before), now)

    def factor(self, peer: PeerId, now: float) -> float:
        """At least 1, which is also what is thought of a peer that has never been used."""
        log, since = self._logs.get(peer, (0.0, now))
        return math.exp(log * 0.5 ** ((now - since) / HALF_LIFE_S))

    def _forget(self, now: float) -> None:
        """Drop what has faded, and if that is nothing, what is oldest."""
        faded = [peer for peer in self._logs if self.factor(peer, now) < FADED]
        for peer in faded or [min(self._logs, key=lambda each: self._logs[each][1])]:
            del self._logs[peer]


def slower_than_announced(span: Span, forward_s: float, candidate: Candidate) -> float:
    """How many times as long a hop's forward took as its peer's announcement and load explain."""
    return forward_s / (candidate.load * candidate.announced_block_s * len(span.blocks))


def worth_leaving(
    route: Route, speeds: HopSpeeds, candidates: Sequence[Candidate], tokens: int, left: int
) -> PeerId | None:
    """The hop of `route` whose move to other peers helps most, None when none helps enough or it is unsure.

    `candidates` are all linked peers of the model, the hops among them. The session has `tokens` tokens, which a
    replacement must run first, and `left` to come at most.
    """
    known = {each.peer: each for each in candidates}
    spares = [each for each in candidates if each.peer not in {span.peer for span in route}]
    hops = [hop for span in route if (hop := _measured(span, speeds, known.get(span.peer)))]
    gains = {hop.span.peer: _gain_s(hop, hops, spares, tokens, left) for hop in hops}
    best = max(gains, key=lambda peer: gains[peer], default=None)
    return best if best is not None and gains[best] > 0 else None


@dataclass(frozen=True, slots=True)
class _Hop:
    """A hop of which enough is known to judge it."""

    span: Span
    candidate: Candidate
    forward_s: float
    """What its forward would take for one session alone."""
    behind: float
    """How many times slower it is than announced."""


def _measured(span: Span, speeds: HopSpeeds, candidate: Candidate | None) -> _Hop | None:
    """None when it is unsure. A hop that is no candidate is draining or lost: that is dealt with elsewhere."""
    forward_s = speeds.forward_s(span.peer)
    if forward_s is None or candidate is None:
        return None
    return _Hop(span, candidate, forward_s / candidate.load, slower_than_announced(span, forward_s, candidate))


def _gain_s(hop: _Hop, hops: Sequence[_Hop], spares: Iterable[Candidate], tokens: int, left: int) -> float:
    """Seconds that moving this hop saves beyond what makes it worth the while; 0 or less is no reason to move.

    Where even the best of the other hops is slower than announced, as on a machine that all share, a spare is taken to
    be no better.
    """
    everywhere = min((each.behind for each in hops if each is not hop), default=1.0)
    wanted = hop.span.blocks
    near = [each for each in spares if each.blocks.start < wanted.end and wanted.start < each.blocks.end]
    expected = {each.peer: _at_least_behind(each, everywhere) for each in near}
    fastest_block_s = min((each.block_s for each in expected.values()), default=math.inf)
    if hop.forward_s < WORTH_TIMES * fastest_block_s * len(wanted):
        return 0.0  # as nearly always: no need to search for a route
    try:
        detour = choose_route(expected.values(), "", wanted, tokens + min(left, ROOM_TOKENS))
    except (NoRoute, OutOfCache):
        return 0.0
    forward_s = sum(expected[each.peer].block_s * len(each.blocks) for each in detour)
    trips_s = sum(expected[each.peer].hop_s for each in detour)
    if hop.forward_s < WORTH_TIMES * forward_s:
        return 0.0
    saved_s = left * (hop.forward_s + hop.candidate.hop_s - forward_s - trips_s)
    move_s = MOVE_S + MOVE_TRIPS * trips_s + tokens * forward_s / PREFILL_TIMES
    return saved_s - WORTH_COST * move_s


def _at_least_behind(candidate: Candidate, times: float) -> Candidate:
    """The candidate, at least so many times slower than it announces."""
    expected = max(candidate.slowness, times)
    return replace(candidate, block_s=candidate.announced_block_s * candidate.load * expected, slowness=expected)
