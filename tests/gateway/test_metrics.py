"""The gateway's counters: their bounds, and their page in the docs."""

from __future__ import annotations

from prometheus_client import CollectorRegistry

from gateway.metrics import GatewayMetrics
from shared.exposition import exposition
from shared.types import PeerId
from tests.documented_metrics import documented, exposed


def test_every_metric_is_documented_and_every_documented_one_is_there() -> None:
    registry = CollectorRegistry()
    GatewayMetrics(registry)
    assert exposed(registry) == documented("Gateway")


def test_hops_are_timed_by_peer_in_seconds() -> None:
    registry = CollectorRegistry()
    metrics = GatewayMetrics(registry)
    metrics.hop(PeerId("a"), (2_000, 30_000))
    metrics.hop(PeerId("a"), (0, 10_000))
    assert registry.get_sample_value("corolla_hop_queue_seconds_sum", {"peer": "a"}) == 0.002
    assert registry.get_sample_value("corolla_hop_forward_seconds_sum", {"peer": "a"}) == 0.04
    assert registry.get_sample_value("corolla_hop_forward_seconds_count", {"peer": "a"}) == 2


def test_a_peer_that_has_gone_loses_its_label_though_nobody_scrapes() -> None:
    registry = CollectorRegistry()
    metrics = GatewayMetrics(registry)
    linked: set[str] = set()
    metrics.connect(linked.__contains__, waiting=lambda: 0)
    for number in range(1000):
        linked.clear()
        linked.add(str(number))
        metrics.hop(PeerId(str(number)), (1, 1))
    lines = [line for line in exposition(registry).splitlines() if line.startswith(b"corolla_hop_queue_seconds_count")]
    assert lines == [b'corolla_hop_queue_seconds_count{peer="999"} 1.0']
    linked.clear()
    assert b'peer="999"' not in metrics.text()


def test_the_queue_is_read_when_it_is_asked_for() -> None:
    registry = CollectorRegistry()
    metrics = GatewayMetrics(registry)
    waiting = [1, 2, 3]
    metrics.connect(lambda peer: True, waiting=waiting.__len__)
    assert registry.get_sample_value("corolla_queue_length") == 3
    waiting.pop()
    assert registry.get_sample_value("corolla_queue_length") == 2
