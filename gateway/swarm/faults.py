"""What is at fault when a chain breaks or stands still: a hop, or the edge between two. Pure, but for the time.

How long a peer is then left alone is another question, which `gateway.swarm.blame` answers.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from gateway.swarm.relay import RelayedEdges
from gateway.swarm.routing import Route
from shared.errors import HopFailed
from shared.types import PeerId
from shared.wire import Report

EDGE_CODES = frozenset({"unreachable", "edge_lost", "edge_silent", "stale"})
AGAIN_CODES = frozenset({"gap", "crop_too_deep", "outbox_lost", "closed", "out_of_cache", "leaving"})
"""What was true when the orders were given is not any more: with newer orders it may go well."""
AGAIN_LIMIT = 2

QUIET_S = 1.0
"""An edge on which a byte came within this time carries something."""
STUCK_S = 2.0
STUCK_FORWARDS = 10  # times as long as a forward of this peer takes


@dataclass(slots=True)
class Faults:
    """What was learnt since the last output: peers to do without, and edges that have to lead through the gateway."""

    me: PeerId
    relayed: RelayedEdges
    excluded: dict[PeerId, HopFailed] = field(default_factory=dict)
    silent: set[PeerId] = field(default_factory=set)
    """Linked, and without an answer when hops were asked last."""
    _again: Counter[PeerId] = field(default_factory=Counter)
    _edges: Counter[tuple[PeerId, PeerId]] = field(default_factory=Counter)
    _complaints: Counter[PeerId] = field(default_factory=Counter)

    def forget(self) -> None:
        """The chain works."""
        self.excluded.clear()
        self._again.clear()
        self._edges.clear()
        self._complaints.clear()

    def judge(self, error: HopFailed, route: Route) -> None:
        """Learn from one failure on a route.

        An edge that was lost is made again; one that cannot be made, is lost again or carries nothing leads through the
        gateway from then on; and if that does not help, a hop is at fault. A peer whose control link is lost is not
        excluded: when it comes back before there is another one, its cache may still be there.
        """
        peers = [span.peer for span in route]
        teller = error.teller or self.me
        guilty = error.peer if error.peer in peers else teller
        if error.code == "lost":
            return
        if error.code in EDGE_CODES:
            self._edge(teller, error)
        elif error.code not in AGAIN_CODES:
            self._exclude(guilty, error)
        else:
            self._again[guilty] += 1
            if self._again[guilty] > AGAIN_LIMIT:
                self._exclude(guilty, error)

    def _edge(self, teller: PeerId, error: HopFailed) -> None:
        """Between `teller` and the peer that it tells of, whichever of them sends."""
        edge = (teller, error.peer)
        self._edges[edge] += 1
        may_be_made_again = error.code != "unreachable" and (error.code != "edge_silent" or self.me in edge)
        if may_be_made_again and self._edges[edge] == 1:
            return
        if self.me not in edge and edge not in self.relayed:
            self.relayed.add(edge)
            return
        self._complaints[teller] += 1
        complains_of_many = teller != self.me and self._complaints[teller] > 1
        self._exclude(teller if complains_of_many or error.peer == self.me else error.peer, error)

    def _exclude(self, peer: PeerId, error: HopFailed) -> None:
        if peer != self.me:
            self.excluded.setdefault(peer, error)


@dataclass(frozen=True, slots=True)
class Look:
    """What the hops of a route say at one time; `lengths` are those of what is right in their caches."""

    reports: Mapping[PeerId, Report]
    lengths: Mapping[PeerId, int]


def suspect(
    route: Route,
    end: int,
    now: Look,
    earlier: Look | None,
    forward_s: Callable[[PeerId], float],
    output_heard_s: float,
) -> HopFailed | None:
    """What keeps the positions up to `end` from coming out; None where somebody works on them, or at a first look.

    The first hop that lacks some of them, and could go on, is looked at. One that has waiting steps is slow, or stuck
    when its forwards stand still; with one that has none the edge before it is at fault. `forward_s` is how long a
    forward of a peer should take, `output_heard_s` how long ago the last byte came from the last hop.
    """
    previous: PeerId | None = None
    for span in route:
        report, length = now.reports[span.peer], now.lengths[span.peer]
        if length < end and not report.blocked:
            before = earlier.reports.get(span.peer) if earlier and earlier.lengths.get(span.peer) == length else None
            return _at_fault(previous, span.peer, report, before, forward_s(span.peer))
        previous = span.peer
    if earlier is None or earlier.lengths != now.lengths or output_heard_s < QUIET_S:
        return None
    last = route[-1].peer
    return HopFailed(last, "edge_silent", f"{last} says that it has sent its output, and it does not come")


def _at_fault(
    previous: PeerId | None, peer: PeerId, report: Report, before: Report | None, forward_s: float
) -> HopFailed | None:
    """Of a hop that could go on and of the edge that leads to it; `before` is its report when it was as far as now."""
    age_s = report.forward_ms / 1000
    if age_s > max(STUCK_S, STUCK_FORWARDS * forward_s):
        return HopFailed(peer, "deadline", f"{peer} has been in one forward for {age_s:.1f} s")
    if before is None:
        return None
    if not (report.queued or report.running):
        if report.heard_ms < 1000 * QUIET_S:
            return None  # a long frame on a slow line
        return HopFailed(peer, "edge_silent", f"nothing comes from {previous or 'here'} to {peer}", previous)
    if report.forwards != before.forwards or report.forward_ms:
        return None  # slow, or busy with others
    return HopFailed(peer, "deadline", f"{peer} does not run the steps that wait there")
