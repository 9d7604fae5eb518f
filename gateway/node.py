"""A gateway, whole: joins the swarm, loads the ends of its models, serves HTTP."""

from __future__ import annotations

import asyncio
import functools
import logging
import socket
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import torch
import uvicorn
from fastapi import FastAPI
from prometheus_client import CollectorRegistry

from gateway import guard
from gateway.adoption import adopt_models
from gateway.api.connection import Connection
from gateway.app import HttpServer, build_app
from gateway.metrics import GatewayMetrics
from gateway.readiness import tell_readiness
from gateway.serving import Serving, load
from gateway.settings import GatewaySettings
from gateway.store.store import Store, opened_store
from gateway.swarm.admission import Admission
from gateway.swarm.peers import Peers
from gateway.swarm.repair import Repair
from gateway.swarm.swarm import Swarm
from gateway.view import View
from shared.addresses import data_addresses
from shared.checkpoint import Checkpoint
from shared.identity import Identity
from shared.network import Network
from shared.pool import Dialler, LinkPool
from shared.program import Leaving, beside, forget_garbage, together
from shared.refusals import Refusals

P2P_PORT = 31530
SHUTDOWN_S = 3

logger = logging.getLogger(__name__)


async def run_gateway(
    settings: GatewaySettings,
    identity: Identity,
    checkpoints: list[Checkpoint],
    listening: socket.socket,
    leaving: Leaving,
    on_ready: Callable[[], None] = lambda: None,
) -> None:
    """Serve until cancelled, or asked to leave; `on_ready` is called after the `ready` line.

    Raises UsageError, CheckpointError, StoreUnavailable.
    """
    async with opened_store(settings.database, settings.state_dir) as store:
        await guard.tell(settings, store)
        await _run(settings, identity, checkpoints, listening, leaving, on_ready, store)


async def _run(
    settings: GatewaySettings,
    identity: Identity,
    checkpoints: list[Checkpoint],
    listening: socket.socket,
    leaving: Leaving,
    on_ready: Callable[[], None],
    store: Store,
) -> None:
    if settings.threads:
        torch.set_num_threads(settings.threads)
    refusals = Refusals()
    metrics = GatewayMetrics(CollectorRegistry(), refusals)
    serving = Serving(ThreadPoolExecutor(1, thread_name_prefix="torch"), metrics.turn, metrics.step)
    for source, checkpoint in zip(settings.model, checkpoints, strict=True):
        serving.add(await beside(load, checkpoint, settings), source)
    forget_garbage()
    async with Network(identity, settings, default_port=P2P_PORT, refusals=refusals) as network:
        await network.announce(kind="gateway", name="gateway")
        dialler = Dialler(
            identity, settings.swarm, lambda peer: data_addresses(network.table.get(peer)), refusals=refusals
        )
        pool = LinkPool(dialler)
        peers = Peers(network, dialler, serving.serves)
        admission = Admission(peers.changes, settings.queue_length, settings.queue_seconds, metrics.waited)
        count = functools.partial(_count, metrics)
        swarm = Swarm(identity.peer, peers, pool, admission, settings.wait_for_coverage, metrics.hop, count)
        serving.connect(swarm, peers)
        metrics.connect(linked=peers.controls.__contains__, waiting=lambda: admission.waiting)
        app = build_app(serving, View(serving, peers, network), metrics, guard.edge(settings, store), store.responses)
        work = [peers.run(), store.keep(), tell_readiness(settings, serving, peers, network, on_ready)]
        if not settings.model:
            work.append(adopt_models(settings, serving, peers))
        try:
            with leaving.finishing() as asked:
                await together(*work, _serve_http(app, settings, listening, asked))
        finally:
            swarm.close()
            peers.close()
            pool.close()


def _count(metrics: GatewayMetrics, repair: Repair) -> None:
    if repair.is_move:
        metrics.moved(repair.code)
    else:
        metrics.failover(repair.code, repair.replayed_tokens, repair.detection_s, repair.seconds)


async def _serve_http(app: FastAPI, settings: GatewaySettings, listening: socket.socket, asked: asyncio.Event) -> None:
    """Serve until cancelled, or `asked` to leave: then finish what runs, within `--drain-seconds`. End what is left."""
    config = uvicorn.Config(
        app,
        http=Connection,
        ws="none",
        log_config=None,
        access_log=False,
        timeout_graceful_shutdown=SHUTDOWN_S,
        ssl_certfile=settings.tls_cert,
        ssl_keyfile=settings.tls_key,
    )
    server = HttpServer(config)
    serving = asyncio.create_task(server.serve([listening]))
    try:
        await together(asyncio.shield(serving), _finish(server, asked, settings.drain_seconds))
    finally:
        server.should_exit = True
        await asyncio.wait({serving}, timeout=SHUTDOWN_S + 1)


async def _finish(server: HttpServer, asked: asyncio.Event, drain_s: float) -> None:
    await asked.wait()
    await server.finish(drain_s)
