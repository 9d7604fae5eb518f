"""TCP ports to listen on, taken before anything slow begins."""

from __future__ import annotations

import socket

from shared.errors import UsageError

TRIED = 100
BACKLOG = 2048


def take_port(host: str, wanted: int | None, default: int, flag: str) -> socket.socket:
    """A socket that listens on `wanted`, or without a wish on `default` or the next free one. Raises UsageError."""
    candidates = range(default, default + TRIED) if wanted is None else (wanted,)
    reason = ""
    for port in candidates:
        try:
            return socket.create_server((host, port), family=_family(host), backlog=BACKLOG)
        except OSError as error:
            reason = error.strerror or str(error)
    ports = f"{candidates[0]}" if len(candidates) == 1 else f"{candidates[0]} to {candidates[-1]}"
    raise UsageError(f"{flag}: {host}:{ports} cannot be listened on ({reason}); pass {flag} with another port")


def _family(host: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in host else socket.AF_INET
