"""The HTTP application: which path leads where. What it shows and serves is passed in."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Generator
from contextlib import contextmanager, suppress

import uvicorn
from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from gateway.api.boundary import Boundary
from gateway.api.chat import ChatCompletions
from gateway.api.errors import reply_to
from gateway.api.metrics import MetricsPage
from gateway.api.models import ModelList, Models
from gateway.api.page import FrontPage
from gateway.api.running import Admittance, RunningRequests
from gateway.api.swarm import SwarmPages, SwarmView
from gateway.metrics import GatewayMetrics
from shared.errors import CorollaError

logger = logging.getLogger(__name__)

BODY_LIMIT_BYTES = 10_000_000


def build_app(
    models: Models, swarm_view: SwarmView, metrics: GatewayMetrics, body_limit_bytes: int = BODY_LIMIT_BYTES
) -> FastAPI:
    """The whole API. Serve it by HttpServer, so that open streams end when the program does."""
    app = FastAPI(openapi_url=None, redirect_slashes=False)
    app.state.closing = closing = asyncio.Event()
    app.state.running = running = RunningRequests()
    chat = ChatCompletions(models, metrics.requests, body_limit_bytes, closing)
    model_list, swarm = ModelList(models), SwarmPages(swarm_view, running, closing)
    app.add_api_route("/v1/chat/completions", chat.create, methods=["POST"])
    app.add_api_route("/v1/models", model_list.all)
    app.add_api_route("/v1//models", model_list.all)  # Open WebUI asks so when its base URL ends with a slash
    app.add_api_route("/v1/models/{model:path}", model_list.one)
    app.add_api_route("/health", swarm.health)
    app.add_api_route("/swarm", swarm.snapshot)
    app.add_api_route("/swarm/events", swarm.events)
    app.add_api_route("/metrics", MetricsPage(metrics).show)
    app.add_api_route("/", FrontPage().show)
    for kind in (CorollaError, HTTPException):
        app.add_exception_handler(kind, _refuse)
    app.add_exception_handler(ClientDisconnect, _nobody_listens)
    app.add_middleware(Admittance, running=running)
    app.add_middleware(Boundary)
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
