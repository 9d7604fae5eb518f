"""The gateway's counters: their bounds, and their page in the docs."""

from __future__ import annotations

import re

import pytest
from prometheus_client import CollectorRegistry

from gateway.metrics import FAILURES, GatewayMetrics
from shared.exposition import exposition
from shared.types import PeerId
from tests.documented_metrics import PAGE, documented, exposed


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


def test_a_failover_is_counted_with_its_code_its_replay_and_its_pause() -> None:
    registry = CollectorRegistry()
    metrics = GatewayMetrics(registry)
    metrics.failover("lost", replayed_tokens=200, detection_s=0.1, pause_s=0.7)
    metrics.failover("lost", replayed_tokens=50, detection_s=0.0, pause_s=0.1)
    metrics.failover("not_finite", replayed_tokens=0, detection_s=0.0, pause_s=0.2)
    assert registry.get_sample_value("corolla_failovers_total", {"code": "lost"}) == 2
    assert registry.get_sample_value("corolla_failovers_total", {"code": "not_finite"}) == 1
    assert registry.get_sample_value("corolla_failover_replayed_tokens_total") == 250
    assert registry.get_sample_value("corolla_failover_pause_seconds_sum") == pytest.approx(1.0)
    assert registry.get_sample_value("corolla_failover_pause_seconds_bucket", {"le": "0.25"}) == 2


def test_moves_are_counted_by_their_reason() -> None:
    registry = CollectorRegistry()
    metrics = GatewayMetrics(registry)
    for reason in ("drained", "slow", "slow"):
        metrics.moved(reason)
    assert registry.get_sample_value("corolla_moves_total", {"reason": "drained"}) == 1
    assert registry.get_sample_value("corolla_moves_total", {"reason": "slow"}) == 2


def test_every_code_of_a_failover_is_documented() -> None:
    codes = PAGE.read_text(encoding="utf-8").partition("Codes of failovers:")[2].partition("`other`")[0]
    assert set(re.findall("`([a-z_]+)`", codes)) == FAILURES


def test_a_hop_cannot_make_labels() -> None:
    registry = CollectorRegistry()
    metrics = GatewayMetrics(registry)
    for number in range(100):
        metrics.failover(f"made up {number}", replayed_tokens=1, detection_s=0.0, pause_s=1)
        metrics.moved(f"made up {number}")
    assert registry.get_sample_value("corolla_failovers_total", {"code": "other"}) == 100
    assert registry.get_sample_value("corolla_moves_total", {"reason": "other"}) == 100
    assert metrics.text().count(b"made up") == 0
