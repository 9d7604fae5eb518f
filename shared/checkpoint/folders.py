"""Where things lie in the cache: `models/<id>/` for models, `digests/` for hashes that were computed once."""

from __future__ import annotations

import re
from pathlib import Path

from shared.checkpoint.digest import DigestMemory

_UNSAFE = re.compile(r"[^\w.@+-]")


def model_folder(cache_dir: Path, model_id: str) -> Path:
    """`<cache_dir>/models/<id>`; whatever could lead elsewhere is replaced."""
    parts = [_UNSAFE.sub("-", part) for part in model_id.split("/")]
    return cache_dir.joinpath("models", *(part.lstrip(".") or "-" for part in parts))


def digest_memory(cache_dir: Path) -> DigestMemory:
    return DigestMemory(cache_dir / "digests")
