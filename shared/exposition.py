"""Counters as Prometheus reads them: the text format, and the buckets that both programs' histograms have."""

from __future__ import annotations

from collections.abc import Iterable

from prometheus_client import CollectorRegistry, Metric, generate_latest
from prometheus_client.core import CounterMetricFamily
from prometheus_client.registry import Collector

from shared.refusals import KINDS, Refusals

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
"""Upper bounds of histograms of seconds."""

ROWS = (1, 2, 4, 8, 16, 32, 64, 128)
"""Upper bounds of histograms of batch sizes."""


def exposition(registry: CollectorRegistry) -> bytes:
    """All metrics of a registry as they are now, in the text format."""
    return generate_latest(_WithoutCreated(registry))


class RefusalCounts(Collector):
    """What a node has refused, by kind: every kind from the start."""

    def __init__(self, refusals: Refusals) -> None:
        self._refusals = refusals

    def collect(self) -> Iterable[Metric]:
        refused = CounterMetricFamily("corolla_refused", "What others sent and was refused.", labels=("kind",))
        for kind in KINDS:
            refused.add_metric((kind,), self._refusals.counted[kind])
        yield refused


class _WithoutCreated(Collector):
    """A registry without the gauges `…_created`, by which the library nearly doubles what is scraped."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._registry = registry

    def collect(self) -> Iterable[Metric]:
        for metric in self._registry.collect():
            metric.samples = [sample for sample in metric.samples if sample.name != f"{metric.name}_created"]
            yield metric
