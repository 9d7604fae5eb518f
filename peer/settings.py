"""The settings of `peer start`."""

from __future__ import annotations

from dataclasses import dataclass

from peer.memory import MemoryCap
from shared.options import NodeSettings
from shared.types import BlockRange


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerSettings(NodeSettings):
    """Everything that a peer is told, by flags or environment. Checked for sense, not yet against the model."""

    model: str
    model_name: str | None
    blocks: BlockRange | None
    num_blocks: int | None
    quantize: str
    cache_tokens: int | None  # None: as many as the memory allows
    memory: MemoryCap | None
    outbox_memory: MemoryCap | None
    name: str | None
    metrics_port: int | None
    metrics_host: str
    drain_seconds: float
