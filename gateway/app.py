"""The HTTP application, and the server that runs it. What it shows and serves is passed in."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Generator
from contextlib import contextmanager, suppress
from importlib.metadata import version

import uvicorn
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from gateway.api.edge import Edge
from gateway.api.errors import reply_to
from gateway.api.metrics import MetricsPage
from gateway.api.models import ModelList, Models
from gateway.api.reception import Reception
from gateway.api.responses.endpoint import Responses
from gateway.api.routes import add_models, add_openai, add_responses, add_swarm
from gateway.api.running import RunningRequests
from gateway.api.swarm import SwarmPages, SwarmView
from gateway.metrics import GatewayMetrics
from gateway.store.responses import ResponseStore
from shared.errors import CorollaError

logger = logging.getLogger(__name__)


def build_app(
    models: Models,
    swarm_view: SwarmView,
    metrics: GatewayMetrics,
    edge: Edge | None = None,
    store: ResponseStore | None = None,
) -> FastAPI:
    """The whole API, for everybody unless an `edge` says else; without a `store`, there are no responses.

    Serve it by HttpServer: it ends the open streams.
    """
    edge = edge or Edge()
    app = FastAPI(
        title="Corolla",
        version=version("corolla"),
        summary="Large language models served from many people's computers, behind the OpenAI API",
        docs_url=None,  # its page would load scripts from elsewhere
        redoc_url=None,
        redirect_slashes=False,
    )
    app.state.closing = closing = asyncio.Event()
    app.state.running = running = RunningRequests(edge.max_requests)
    reception = Reception(models, metrics.requests, closing, edge.body_limit_bytes, edge.body_seconds, edge.charges())
    add_openai(app, reception)
    add_models(app, ModelList(models))
    if store is not None:
        add_responses(app, Responses(reception, store), store)
    add_swarm(app, SwarmPages(swarm_view, running, closing), MetricsPage(metrics))
    for kind in (CorollaError, HTTPException, RequestValidationError):
        app.add_exception_handler(kind, _refuse)
    app.add_exception_handler(ClientDisconnect, _nobody_listens)
    edge.surround(app, running)
    return app


class HttpServer(uvicorn.Server):
    """A uvicorn server of `build_app`'s application. `listening` is set once it takes requests.

    It may `finish` before it ends. At its end it ends the application's streams, some of which are endless, before it
    waits for them.
    """

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.listening = asyncio.Event()

    async def finish(self, within_s: float) -> None:
        """Refuse new requests, and return when those that run have been answered, or `within_s` later."""
        running: RunningRequests = self._app.state.running
        running.refuse_more()
        if not running:
            return
        logger.info(
            "leaving: %d requests are finished first, within %g s; a second signal ends them", len(running), within_s
        )
        with suppress(TimeoutError):
            async with asyncio.timeout(within_s):
                await running.finished()

    @contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        """Signals belong to the program around it, which sets `should_exit`."""
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.listening.set()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._app.state.closing.set()
        await super().shutdown(sockets)

    @property
    def _app(self) -> FastAPI:
        assert isinstance(self.config.app, FastAPI)
        return self.config.app


async def _refuse(request: Request, error: Exception) -> Response:
    reply = reply_to(error)
    return JSONResponse(reply.body, reply.status, reply.headers)


async def _nobody_listens(request: Request, error: Exception) -> Response:
    return Response(status_code=499)  # as nginx writes it; seen in the access log alone
