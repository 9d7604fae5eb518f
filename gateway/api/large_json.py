"""Replies that may be large: they are made beside the event loop, which has streams to serve."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

from fastapi import Response

_ENCODER = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":"))


async def json_reply(make: Callable[[], dict[str, Any]]) -> Response:
    """What `make` gives, as JSON."""
    return Response(await asyncio.to_thread(_encode, make), media_type="application/json")


def _encode(make: Callable[[], dict[str, Any]]) -> bytes:
    # Piece by piece in Python: in one call, as `json.dumps`, it would keep all other threads waiting to its end.
    return "".join(_ENCODER.iterencode(make())).encode()
