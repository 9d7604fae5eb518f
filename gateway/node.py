"""A gateway, whole: joins the swarm, loads the ends of its models, serves HTTP."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import torch
import uvicorn
from fastapi import FastAPI
from prometheus_client import CollectorRegistry

from gateway.adoption import adopt_models
from gateway.app import HttpServer, build_app
from gateway.metrics import GatewayMetrics
from gateway.readiness import tell_readiness
from gateway.serving import Serving, load
from gateway.settings import GatewaySettings
from gateway.swarm.admission import Admission
from gateway.swarm.peers import Peers
from gateway.swarm.swarm import Swarm
from gateway.view import View
from shared.addresses import data_addresses
from shared.checkpoint import Checkpoint
from shared.identity import Identity
from shared.network import Network
from shared.pool import Dialler, LinkPool
from shared.program import beside, forget_garbage, together

P2P_PORT = 31530
SHUTDOWN_S = 3

logger = logging.getLogger(__name__)


async def run_gateway(
    settings: GatewaySettings,
    identity: Identity,
    checkpoints: list[Checkpoint],
    listening: socket.socket,
    on_ready: Callable[[], None] = lambda: None,
) -> None:
    """Serve until cancelled; `on_ready` is called after the `ready` line. Raises UsageError, CheckpointError."""
    if settings.threads:
        torch.set_num_threads(settings.threads)
    metrics = GatewayMetrics(CollectorRegistry())
    serving = Serving(ThreadPoolExecutor(1, thread_name_prefix="torch"), metrics.turn, metrics.step)
    for source, checkpoint in zip(settings.model, checkpoints, strict=True):
        serving.add(await beside(load, checkpoint, settings), source)
    forget_garbage()
    async with Network(identity, settings, default_port=P2P_PORT) as network:
        await network.announce(kind="gateway", name="gateway")
        dialler = Dialler(identity, settings.swarm, lambda peer: data_addresses(network.table.get(peer)))
        pool = LinkPool(dialler)
        peers = Peers(network, dialler, serving.serves)
        admission = Admission(peers.changes, settings.queue_length, settings.queue_seconds, metrics.waited)
        serving.connect(Swarm(identity.peer, peers, pool, admission, metrics.hop), peers)
        metrics.connect(linked=peers.controls.__contains__, waiting=lambda: admission.waiting)
        app = build_app(serving, View(serving, peers, network), metrics)
        work = [peers.run(), tell_readiness(settings, serving, peers, network, on_ready), _serve_http(app, listening)]
        if not settings.model:
            work.append(adopt_models(settings, serving, peers))
        try:
            await together(*work)
        finally:
            peers.close()
            pool.close()


async def _serve_http(app: FastAPI, listening: socket.socket) -> None:
    """Serve until cancelled; then end the open streams, within a limit."""
    config = uvicorn.Config(app, log_config=None, access_log=False, timeout_graceful_shutdown=SHUTDOWN_S)
    server = HttpServer(config)
    serving = asyncio.create_task(server.serve([listening]))
    try:
        await asyncio.shield(serving)
    finally:
        server.should_exit = True
        await asyncio.wait({serving}, timeout=SHUTDOWN_S + 1)
