"""From the settings to the edge: who may use this gateway, and how. What makes no sense is refused at the start."""

from __future__ import annotations

import ipaddress
import logging
import re
import shlex
import ssl
from pathlib import Path

from gateway.api.edge import Edge
from gateway.settings import GatewaySettings
from gateway.store.keyring import KeyRing
from gateway.store.store import Store
from shared.errors import UsageError

logger = logging.getLogger(__name__)

_ORIGIN = re.compile(r"[a-z][a-z0-9+.-]*://(\[[0-9a-f:.]+\]|[a-z0-9._-]+)(:[0-9]{1,5})?")

_NAME = re.compile(r"[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*")


def asks_for_keys(settings: GatewaySettings) -> bool:
    """By default, where others than this machine can reach the gateway."""
    return not is_loopback(settings.host) if settings.require_keys is None else settings.require_keys


def check(settings: GatewaySettings) -> None:
    """Raises UsageError."""
    for origin in settings.cors_origin:
        _check_origin(origin, asks_for_keys(settings))
    for name in settings.host_name:
        if not _NAME.fullmatch(name):
            raise UsageError(f"--host-name {name!r} is no name such as box.example.org: pass it without a port")
    if (settings.tls_cert is None) != (settings.tls_key is None):
        raise UsageError("--tls-cert and --tls-key belong together: pass both")
    if settings.tls_cert and settings.tls_key:
        _check_certificate(settings.tls_cert, settings.tls_key)


def edge(settings: GatewaySettings, store: Store) -> Edge:
    """What stands around the API."""
    guarded = asks_for_keys(settings)
    return Edge(
        keys=KeyRing(store.keys) if guarded else None,
        host_names=None if guarded else frozenset(map(str.lower, (settings.host, *settings.host_name))),
        cors_origins=settings.cors_origin,
        max_requests=settings.max_requests,
        body_limit_bytes=settings.body_limit,
        request_seconds=settings.request_seconds,
        ledger=store.ledger,
    )


async def tell(settings: GatewaySettings, store: Store) -> None:
    """Log whether keys are needed, and how to make one. Raises StoreUnavailable."""
    if asks_for_keys(settings):
        count = len(await store.keys.live())
        logger.info("callers need a key (there are %d); to make one: %s", count, _create_command(settings))
    elif not is_loopback(settings.host):
        logger.warning("--no-require-keys: whoever reaches %s:%d may use this gateway", settings.host, settings.port)


def is_loopback(host: str) -> bool:
    """Whether what listens there is reached from this machine alone."""
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _check_origin(origin: str, guarded: bool) -> None:
    if origin == "*" and not guarded:
        raise UsageError(
            "--cors-origin '*' without keys lets every web page use this gateway: name the origins, "
            "or pass --require-keys"
        )
    if origin != "*" and not _ORIGIN.fullmatch(origin):
        raise UsageError(f"--cors-origin {origin!r} is no origin such as https://chat.example.org: no path, lower case")


def _check_certificate(certificate: Path, key: Path) -> None:
    """Raises UsageError where uvicorn would fail later, or ask for a password."""
    for flag, path in (("--tls-cert", certificate), ("--tls-key", key)):
        try:
            path.read_bytes()
        except OSError as error:
            raise UsageError(f"{flag}: {path} cannot be read: {error.strerror}") from error
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(certificate, key, password="")
    except (ssl.SSLError, ValueError) as error:
        raise UsageError(
            f"--tls-cert {certificate} and --tls-key {key} are no certificate chain and its key, in PEM, the key "
            f"without a password ({getattr(error, 'reason', None) or 'they cannot be parsed'})"
        ) from error


def _create_command(settings: GatewaySettings) -> str:
    """The password of a database is not repeated: it comes from the environment too."""
    words = ["gateway", "keys", "create"]
    if settings.database is None:
        words += ["--state-dir", str(settings.state_dir)]
    else:
        words += ["--database", "URL"]
    return shlex.join(words)
