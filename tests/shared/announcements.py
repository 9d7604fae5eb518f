"""Announcements and settings for tests of the control plane."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from shared.announcement import Announcement
from shared.identity import Identity
from shared.types import BlockRange, Fingerprint, Numerics

PEER: dict[str, Any] = {
    "kind": "peer",
    "name": "brave otter",
    "model": "HuggingFaceTB/SmolLM2-135M-Instruct",
    "fingerprint": Fingerprint("0123456789abcdef" * 4),
    "blocks": BlockRange(10, 20),
    "model_blocks": 30,
    "digests": tuple(bytes([block]) * 16 for block in range(10)),
    "numerics": Numerics("float32", "none", "float32"),
    "tokens_per_s": 12.5,
    "cache_tokens": 4096,
}
"""What a peer announces, as fields of `Offer`."""


def announcement(identity: Identity, **fields: Any) -> Announcement:
    about: dict[str, Any] = {
        "peer": identity.peer,
        "addresses": ("/ip4/192.0.2.7/tcp/31330", "/ip4/192.0.2.7/tcp/31430/tls"),
        "swarm": "test",
        "protocol": (1, 1),
        "sequence": 1,
        "issued_at": time.time(),
        "ttl_s": 30.0,
    }
    return Announcement(**{**PEER, **about, **fields})


@dataclass(frozen=True, slots=True)
class Settings:
    """What `Network` is told."""

    state_dir: Path
    swarm: str = "test"
    join: tuple[str, ...] = ()
    listen: str = "127.0.0.1"
    p2p_port: int | None = None
    announce: tuple[str, ...] = ()
