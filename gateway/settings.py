"""The settings of `gateway start`."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from shared.options import NodeSettings


@dataclass(frozen=True, slots=True, kw_only=True)
class GatewaySettings(NodeSettings):
    """Everything that a gateway is told. Without models, it serves those of the swarm that come from a hub."""

    model: tuple[str, ...]
    model_name: tuple[str, ...]
    host: str
    port: int
    head: Literal["none", "int8"]
    queue_length: int
    queue_seconds: float
    drain_seconds: float
    wait_for_coverage: float
    require_keys: bool | None
    host_name: tuple[str, ...]
    database: str | None = field(repr=False)  # it may hold a password
    max_requests: int
    request_seconds: float
    body_limit: int
    cors_origin: tuple[str, ...]
    tls_cert: Path | None
    tls_key: Path | None
