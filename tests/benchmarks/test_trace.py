"""Traces from counters: what a phase has spent is the difference of two readings."""

from __future__ import annotations

import pytest
from prometheus_client import CollectorRegistry

from benchmarks.client import Endpoint
from benchmarks.trace import Spent, Tracer, parse_counters
from gateway.metrics import GatewayMetrics
from shared.types import PeerId

FIRST, SECOND = PeerId("first"), PeerId("second")


def test_counters_are_read_from_what_a_gateway_shows() -> None:
    metrics = GatewayMetrics(CollectorRegistry())
    metrics.step("a", 0.25)
    metrics.step("b", 0.5)
    metrics.hop(FIRST, (1_000, 20_000))
    found = parse_counters(metrics.text().decode())
    assert found["corolla_step_seconds", ""] == Spent(0.75, 2)
    assert found["corolla_hop_forward_seconds", FIRST] == Spent(0.02, 1)


async def test_a_trace_is_what_was_spent_between_two_readings() -> None:
    metrics = GatewayMetrics(CollectorRegistry())
    metrics.step("a", 9.0)
    metrics.hop(FIRST, (0, 9_000_000))
    before = parse_counters(metrics.text().decode())
    metrics.step("a", 0.1)
    for peer in (SECOND, FIRST):
        metrics.hop(peer, (5_000, 30_000))
    after = parse_counters(metrics.text().decode())
    async with Endpoint("http://127.0.0.1:9") as endpoint:
        trace = Tracer(endpoint, {FIRST: "0:3", SECOND: "3:6"}).between(before, after)
    assert trace.step.mean == pytest.approx(0.1)
    assert [(hop.blocks, hop.forward.mean) for hop in trace.hops] == [
        ("0:3", pytest.approx(0.03)),
        ("3:6", pytest.approx(0.03)),
    ]
    assert trace.wire_s == pytest.approx(0.03)
