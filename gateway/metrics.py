"""What a gateway counts, by names of `docs/metrics.md`. Knows nothing of HTTP, engines or chains: they call its hooks.

The values of labels come from known sets alone: models served here, the outcomes of `gateway.api.observation`, linked
peers, and what is listed here.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Summary

from shared.exposition import ROWS, SECONDS, RefusalCounts, exposition
from shared.refusals import Refusals
from shared.types import PeerId
from shared.wire import HopTime

UNKNOWN_MODEL = ""
"""The label of a request that was refused before it named a model of this gateway: to Prometheus, no label."""


OTHER = "other"
"""The label of a code that is not known here: what a hop says of its failure is its own word."""
FAILURES = frozenset((
    "lost", "edge_lost", "edge_silent", "unreachable", "refused", "deadline", "closed", "stale", "leaving",
    "outbox_lost", "out_of_cache", "cache_overrun", "crop_too_deep", "gap", "protocol", "not_finite", "forward",
    "unsupported", "wrong_model", "wrong_blocks"
))  # fmt: skip
"""Codes of HopFailed that this software knows."""
MOVES = frozenset(("drained", "slow"))


class GatewayMetrics:
    """All counters of one gateway, in the registry that is passed in."""

    def __init__(self, registry: CollectorRegistry, refusals: Refusals | None = None) -> None:
        self._registry = registry
        registry.register(RefusalCounts(refusals or Refusals()))
        self.requests = RequestMetrics(registry)
        self._queue_length = Gauge(
            "corolla_queue_length", "Requests that wait for cache on the peers.", registry=registry
        )
        self._queue_wait = _seconds(registry, "corolla_queue_wait_seconds", "Wait for cache on the peers.")
        self._step = _seconds(registry, "corolla_step_seconds", "A decode step through the chain.", "model")
        self._turn = _seconds(registry, "corolla_gateway_turn_seconds", "A turn of head, sampling and embedding here.")
        self._turn_rows = Histogram(
            "corolla_gateway_turn_rows", "Sessions that shared a turn.", registry=registry, buckets=ROWS
        )
        self._hops = HopMetrics(registry)
        self._failovers = FailoverMetrics(registry)

    def connect(self, linked: Callable[[PeerId], bool], waiting: Callable[[], int]) -> None:
        """Which peers keep their labels, and how many requests wait: asked when it matters."""
        self._hops.linked = linked
        self._queue_length.set_function(waiting)

    def waited(self, seconds: float) -> None:
        """A request has got through the queue."""
        self._queue_wait.observe(seconds)

    def step(self, model: str, seconds: float) -> None:
        """A decode step was pushed, and its output came, `seconds` later."""
        self._step.labels(model).observe(seconds)

    def turn(self, rows: int, seconds: float) -> None:
        """The torch thread has done one turn for `rows` sessions."""
        self._turn.observe(seconds)
        self._turn_rows.observe(rows)

    def hop(self, peer: PeerId, spent: HopTime) -> None:
        """What a hop says that it spent on a step."""
        self._hops.spent(peer, spent)

    def failover(self, code: str, replayed_tokens: int, detection_s: float, pause_s: float) -> None:
        """A session has gone on without a hop that failed in this way; the pause holds the time of its detection."""
        self._failovers.failed_over(code, replayed_tokens, detection_s, pause_s)

    def moved(self, reason: str) -> None:
        """A session has left a hop that still worked: `drained`, or `slow`."""
        self._failovers.moves.labels(_known(reason, MOVES)).inc()

    def text(self) -> bytes:
        """Everything as it is now, in Prometheus' text format."""
        self._hops.forget_gone()
        return exposition(self._registry)


class RequestMetrics:
    """What is counted of requests."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.ended = Counter("corolla_requests", "Requests that have ended.", ("model", "outcome"), registry=registry)
        self.in_progress = Gauge("corolla_requests_in_progress", "Requests that have not ended.", registry=registry)
        self.prompt_tokens = Counter("corolla_prompt_tokens", "Prompt tokens.", ("model",), registry=registry)
        self.completion_tokens = Counter("corolla_completion_tokens", "Made tokens.", ("model",), registry=registry)
        self.first_token = _seconds(
            registry, "corolla_time_to_first_token_seconds", "From a request's arrival to its first token.", "model"
        )
        self.inter_token = _seconds(registry, "corolla_inter_token_seconds", "From one token to the next.", "model")

    def arrived(self) -> RequestCount:
        """A request has come: the clock runs."""
        return RequestCount(self)


class RequestCount:
    """What is counted of one request, from its arrival; its end counts once, whoever tells of it first."""

    def __init__(self, metrics: RequestMetrics) -> None:
        self._metrics = metrics
        self._model = UNKNOWN_MODEL
        self._tokens = 0
        self._told_at = time.perf_counter()
        self._ended = False
        metrics.in_progress.inc()

    def asks(self, model: str) -> None:
        """It names a model that is served here."""
        self._model = model

    def accepted(self, prompt_tokens: int) -> None:
        """Nothing is wrong with it: it will be answered, if the swarm can."""
        self._metrics.prompt_tokens.labels(self._model).inc(prompt_tokens)

    def made(self, new: int) -> None:
        """So many more tokens are made. Those that come together share the time since the last."""
        now = time.perf_counter()
        if not new:
            return
        seconds, self._told_at = now - self._told_at, now
        if not self._tokens:
            self._metrics.first_token.labels(self._model).observe(seconds)
        else:
            inter_token = self._metrics.inter_token.labels(self._model)
            for _ in range(new):
                inter_token.observe(seconds / new)
        self._metrics.completion_tokens.labels(self._model).inc(new)
        self._tokens += new

    def ended(self, outcome: str) -> None:
        """The request is over."""
        if not self._ended:
            self._ended = True
            self._metrics.in_progress.dec()
            self._metrics.ended.labels(self._model, outcome).inc()


class HopMetrics:
    """What each hop spends on steps. Summaries: a histogram would be seventeen series a peer.

    A peer keeps its label while it is linked: `linked` says so. What is gone is forgotten when somebody new comes, so
    there are never more labels than there were links at one time.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        self.linked: Callable[[PeerId], bool] = lambda peer: True
        self._queue = Summary("corolla_hop_queue_seconds", "Wait for a forward.", ("peer",), registry=registry)
        self._forward = Summary("corolla_hop_forward_seconds", "Forwards.", ("peer",), registry=registry)
        self._labelled: dict[PeerId, tuple[Summary, Summary]] = {}

    def spent(self, peer: PeerId, spent: HopTime) -> None:
        """Microseconds in the queue, and in the forward."""
        if peer not in self._labelled:
            self.forget_gone()
            self._labelled[peer] = (self._queue.labels(peer), self._forward.labels(peer))
        for summary, microseconds in zip(self._labelled[peer], spent, strict=True):
            summary.observe(microseconds / 1e6)

    def forget_gone(self) -> None:
        """Drop the labels of peers that are not linked any more."""
        for peer in [each for each in self._labelled if not self.linked(each)]:
            del self._labelled[peer]
            self._queue.remove(peer)
            self._forward.remove(peer)


class FailoverMetrics:
    """What becomes of sessions whose hops fail, or are better left."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._failovers = Counter("corolla_failovers", "Failovers, by what failed.", ("code",), registry=registry)
        self._replayed = Counter(
            "corolla_failover_replayed_tokens", "Tokens that were replayed to replacements.", registry=registry
        )
        self._pause = _seconds(
            registry,
            "corolla_failover_pause_seconds",
            "From a chain's last move before a failure to its next output.",
        )
        self._detection = _seconds(
            registry, "corolla_failover_detection_seconds", "What of that pause was over before the failure was known."
        )
        self.moves = Counter("corolla_moves", "Sessions that left a hop that worked.", ("reason",), registry=registry)

    def failed_over(self, code: str, replayed_tokens: int, detection_s: float, pause_s: float) -> None:
        self._failovers.labels(_known(code, FAILURES)).inc()
        self._replayed.inc(replayed_tokens)
        self._detection.observe(detection_s)
        self._pause.observe(pause_s)


def _known(label: str, labels: frozenset[str]) -> str:
    return label if label in labels else OTHER


def _seconds(registry: CollectorRegistry, name: str, meaning: str, *labels: str) -> Histogram:
    return Histogram(name, meaning, labels, registry=registry, buckets=SECONDS)
