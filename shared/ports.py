"""Which TCP port to listen on."""

from __future__ import annotations

import socket

from shared.errors import UsageError

TRIED = 100


def choose_port(host: str, wanted: int | None, default: int, flag: str) -> int:
    """`wanted` if it is free, else an error; without a wish the default or the next free one. Raises UsageError."""
    if wanted is not None:
        if reason := _taken(host, wanted):
            raise UsageError(f"{flag} {wanted}: {host}:{wanted} cannot be listened on ({reason}); pass another port")
        return wanted
    for port in range(default, default + TRIED):
        reason = _taken(host, port)
        if not reason:
            return port
    raise UsageError(f"no port from {default} to {default + TRIED - 1} is free on {host} ({reason}): pass {flag}")


def _taken(host: str, port: int) -> str:
    """Why the port cannot be had, or nothing."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        with socket.create_server((host, port), family=family):
            return ""
    except OSError as error:
        return error.strerror or str(error)
