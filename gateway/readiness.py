"""Tells the operator when a whole model is served, and until then what is missing and who could bring it."""

from __future__ import annotations

import logging
from collections.abc import Callable

import click

from gateway.serving import Serving
from gateway.settings import GatewaySettings
from gateway.swarm.peers import Peers
from gateway.swarm.routing import first_hole
from shared.network import Network

logger = logging.getLogger(__name__)


async def tell_readiness(
    settings: GatewaySettings, serving: Serving, peers: Peers, network: Network, on_ready: Callable[[], None]
) -> None:
    """Print the `ready` line on stdout once, log each change of what is missing; for ever."""
    told: list[str] = []
    ready = False
    changes = peers.changes.follow()
    while True:
        missing = _missing(serving, peers, network)
        whole = [model for model in serving.models if serving.whole(model)]
        if whole and not ready:
            ready = True
            click.echo(f"ready {base_url(settings)}/v1")
            on_ready()
        for line in missing if missing != told else ():
            logger.info("%s", line)
        told = missing
        await anext(changes)


def base_url(settings: GatewaySettings) -> str:
    """What to open on this machine."""
    host = settings.host
    host = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(host, f"[{host}]" if ":" in host else host)
    return f"{'https' if settings.tls_cert else 'http'}://{host}:{settings.port}"


def _missing(serving: Serving, peers: Peers, network: Network) -> list[str]:
    if not serving.models:
        return ["waiting for peers whose model can be fetched from a hub; or pass --model"]
    join = network.addresses[0] if network.addresses else "MULTIADDR"
    lines = []
    for model in serving.models:
        if hole := first_hole(peers.ranges(model.fingerprint), model.blocks):
            command = f"peer start {model.peer_flags} --blocks {hole} --join {join}"
            lines.append(f"waiting for blocks {hole} of {model.id}; to serve them: {command}")
    return lines
