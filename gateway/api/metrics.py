"""`/metrics`: the gateway's counters, for Prometheus."""

from __future__ import annotations

from fastapi import Response

from gateway.metrics import GatewayMetrics
from shared.exposition import CONTENT_TYPE


class MetricsPage:
    """Handler of the counters' resource."""

    def __init__(self, metrics: GatewayMetrics) -> None:
        self._metrics = metrics

    async def show(self) -> Response:
        return Response(self._metrics.text(), media_type=CONTENT_TYPE)
