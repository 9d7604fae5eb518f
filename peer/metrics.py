"""What a peer counts, by names of `docs/metrics.md`. Schedulers and links know nothing of it: it has hooks for them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from prometheus_client import CollectorRegistry, Histogram, Metric
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from peer.scheduler import Forward
from peer.sessions import Sessions
from shared.exposition import ROWS, SECONDS, RefusalCounts
from shared.links import Traffic
from shared.refusals import Refusals


@dataclass(frozen=True, slots=True)
class Holdings:
    """What a peer holds now: sessions, steps that wait for a forward, and cache, promised or free."""

    sessions: int = 0
    waiting_steps: int = 0
    cache_bytes: int = 0
    free_cache_bytes: int = 0
    cache_tokens: int = 0
    free_cache_tokens: int = 0
    outbox_bytes: int = 0
    used_outbox_bytes: int = 0
    late_frames: int = 0

    @property
    def used(self) -> float:
        """The part of the cache that is promised to sessions, 0 to 1."""
        return 1 - self.free_cache_bytes / self.cache_bytes if self.cache_bytes else 0.0


def holdings_of(sessions: Sessions) -> Holdings:
    """What these sessions hold together."""
    budget = sessions.budget
    return Holdings(
        sessions=len(sessions),
        waiting_steps=sum(len(session.queue) for session in sessions),
        cache_bytes=budget.total,
        free_cache_bytes=budget.free,
        cache_tokens=budget.tokens,
        free_cache_tokens=budget.free_tokens,
        outbox_bytes=sessions.outboxes.total,
        used_outbox_bytes=sessions.outboxes.used,
        late_frames=sessions.late_frames,
    )


@dataclass(slots=True)
class Work:
    """What a peer has done since it started: forwards that decoded, and tokens."""

    decodes: int = 0
    decode_tokens: int = 0
    prefill_tokens: int = 0

    def copy(self) -> Work:
        return Work(self.decodes, self.decode_tokens, self.prefill_tokens)

    def since(self, before: Work) -> Work:
        """What was done between an earlier copy and this one."""
        return Work(
            self.decodes - before.decodes,
            self.decode_tokens - before.decode_tokens,
            self.prefill_tokens - before.prefill_tokens,
        )


class PeerMetrics(Collector):
    """All counters of one peer, in the registry that is passed in; `holdings` and `traffic` are read when asked for."""

    def __init__(
        self,
        registry: CollectorRegistry,
        holdings: Callable[[], Holdings],
        traffic: Traffic,
        refusals: Refusals | None = None,
    ) -> None:
        self.holdings = holdings
        self.work = Work()
        self._traffic = traffic
        self._forward = Histogram(
            "corolla_peer_forward_seconds", "One forward, of all its sessions.", registry=registry, buckets=SECONDS
        )
        self._sessions = Histogram(
            "corolla_peer_forward_sessions", "Sessions that shared a forward.", registry=registry, buckets=ROWS
        )
        self._queue = Histogram(
            "corolla_peer_queue_seconds", "Longest wait among a forward's steps.", registry=registry, buckets=SECONDS
        )
        registry.register(self)
        registry.register(RefusalCounts(refusals or Refusals()))

    def forward(self, forward: Forward) -> None:
        """One forward is over."""
        self._forward.observe(forward.seconds)
        self._sessions.observe(forward.sessions)
        self._queue.observe(forward.queued_s)
        self.work.decodes += forward.decode_tokens > 0
        self.work.decode_tokens += forward.decode_tokens
        self.work.prefill_tokens += forward.prefill_tokens

    def collect(self) -> Iterable[Metric]:
        """What is counted elsewhere, or held now."""
        yield from self._counters()
        now = self.holdings()
        for name, meaning, value in (
            ("sessions", "Sessions that hold cache.", now.sessions),
            ("queue_length", "Steps that wait for a forward.", now.waiting_steps),
            ("cache_bytes", "Cache, in all.", now.cache_bytes),
            ("cache_free_bytes", "Cache that is promised to no session.", now.free_cache_bytes),
            ("cache_tokens", "Cache in tokens of all blocks, in all.", now.cache_tokens),
            ("cache_free_tokens", "Cache in tokens that is promised to no session.", now.free_cache_tokens),
            ("outbox_bytes", "Room for what is sent again when a peer dies.", now.outbox_bytes),
            ("outbox_used_bytes", "Room of that in use.", now.used_outbox_bytes),
        ):
            yield GaugeMetricFamily(f"corolla_peer_{name}", meaning, value)

    def _counters(self) -> Iterable[Metric]:
        tokens = CounterMetricFamily("corolla_peer_tokens", "Tokens through this peer's blocks.", labels=("work",))
        tokens.add_metric(("decode",), self.work.decode_tokens)
        tokens.add_metric(("prefill",), self.work.prefill_tokens)
        wire = CounterMetricFamily("corolla_peer_wire_bytes", "Frames on links, before TLS.", labels=("direction",))
        wire.add_metric(("in",), self._traffic.received_bytes)
        wire.add_metric(("out",), self._traffic.sent_bytes)
        late = CounterMetricFamily("corolla_peer_late_frames", "Frames of earlier epochs or rounds, dropped.")
        late.add_metric((), self.holdings().late_frames)
        return tokens, wire, late
