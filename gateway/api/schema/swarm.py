"""Replies of `/health` and `/swarm`."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from gateway.api.schema.reply import Reply


class ModelHealth(Reply):
    blocks: int
    covered: int = Field(description="Blocks that some peer serves now.")


class HealthReply(Reply):
    """200 when at least one model is whole, else 503."""

    status: Literal["ok", "waiting", "leaving"]
    models: dict[str, ModelHealth]
    join: list[str] = Field(description="Addresses for `--join`.")


class SwarmModel(Reply):
    id: str
    fingerprint: str
    blocks: int
    whole: bool


class SwarmPeer(Reply):
    peer: str
    name: str
    model: str
    fingerprint: str
    blocks: tuple[int, int] = Field(description="Half-open.")
    state: str
    quantization: str
    dtype: str
    tokens_per_s: float
    cache_tokens: int
    free_cache_tokens: int | None
    room_tokens: int | None
    sessions: int | None
    addresses: list[str]
    version: str


class SwarmReply(Reply):
    models: list[SwarmModel]
    peers: list[SwarmPeer]
    join: list[str]
