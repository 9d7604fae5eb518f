"""A real server on a free port, over a real tiny model, and clients for it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn
from fastapi import FastAPI
from openai import AsyncOpenAI
from prometheus_client import CollectorRegistry
from transformers import PreTrainedModel

from gateway.api.connection import Connection
from gateway.api.edge import Edge
from gateway.app import HttpServer, build_app
from gateway.generation.completion import ServedModel
from gateway.generation.tokenizer import TextTokenizer
from gateway.metrics import GatewayMetrics
from gateway.store.address import database_url
from gateway.store.database import Database
from gateway.store.responses import ResponseStore
from shared.errors import NoRoute, UnknownModel
from shared.types import BlockRange
from tests.gateway.local_engine import LocalEngine
from tests.tiny_models import make_tiny_model

DEADLINE_S = 10
MODEL = "tests/Tiny"


class Shelf:
    """The models of a test: those that can answer, and those of which a part is missing."""

    def __init__(self, *models: ServedModel) -> None:
        self.models = {model.id: model for model in models}
        self.holes: dict[str, BlockRange] = {}

    def get(self, model: str) -> ServedModel:
        if model in self.holes:
            raise NoRoute(model, self.holes[model])
        if model not in self.models:
            raise UnknownModel(model)
        return self.models[model]

    def list(self) -> list[ServedModel]:
        return list(self.models.values())


class Board:
    """A swarm of which a test says how it looks."""

    def __init__(self) -> None:
        self.peers: list[dict[str, Any]] = []
        self.covered = 2
        self._changed = asyncio.Condition()

    def health(self) -> dict[str, Any]:
        status = "ok" if self.covered == 2 else "waiting"
        return {"status": status, "models": {MODEL: {"blocks": 2, "covered": self.covered}}, "join": []}

    def snapshot(self) -> dict[str, Any]:
        return {"models": [], "peers": list(self.peers), "join": []}

    async def changed(self) -> AsyncGenerator[None, None]:
        while True:
            async with self._changed:
                await self._changed.wait()
            yield

    async def announce(self, *peers: dict[str, Any]) -> None:
        self.peers.extend(peers)
        async with self._changed:
            self._changed.notify_all()


class Site:
    """A running gateway, and what stands behind it."""

    def __init__(self, server: HttpServer, shelf: Shelf, board: Board) -> None:
        self.server = server
        self.shelf = shelf
        self.board = board
        self.port = server.servers[0].sockets[0].getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"

    def serve(self, model: ServedModel, engine: Any) -> None:
        """From now on `model` is answered by another engine."""
        self.shelf.models[model.id] = replace(model, engine=engine)


def app_over(shelf: Shelf, board: Board, store: ResponseStore | None = None, edge: Edge | None = None) -> FastAPI:
    """The API with counters of its own."""
    return build_app(shelf, board, GatewayMetrics(CollectorRegistry()), edge, store)


@asynccontextmanager
async def running(app: Any, **config: Any) -> AsyncIterator[HttpServer]:
    server = HttpServer(
        uvicorn.Config(
            app, port=0, http=Connection, ws="none", log_level="warning", timeout_graceful_shutdown=5, **config
        )
    )
    serving = asyncio.create_task(server.serve())
    async with asyncio.timeout(DEADLINE_S):
        await server.listening.wait()
    try:
        yield server
    finally:
        server.should_exit = True
        async with asyncio.timeout(DEADLINE_S):
            await serving


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_model(tmp_path_factory.mktemp("checkpoint"), blocks=2)


@pytest.fixture(scope="session")
def tokenizer(checkpoint: Path) -> TextTokenizer:
    return TextTokenizer.load(checkpoint)


@pytest.fixture(scope="session")
def weights(checkpoint: Path) -> PreTrainedModel:
    return LocalEngine.load(checkpoint).model


@pytest.fixture
def model(tokenizer: TextTokenizer, weights: PreTrainedModel) -> ServedModel:
    return ServedModel(MODEL, 1_700_000_000, tokenizer, LocalEngine(weights), 512, tokenizer.end_ids)


@pytest.fixture
def engine(model: ServedModel) -> LocalEngine:
    assert isinstance(model.engine, LocalEngine)
    return model.engine


@pytest.fixture
def store(tmp_path: Path) -> Iterator[ResponseStore]:
    database = Database.open(database_url(None, tmp_path))
    yield ResponseStore(database)
    database.close()


@pytest.fixture
def edge() -> Edge:
    """What a module of tests replaces where it is about that."""
    return Edge()


@pytest.fixture
async def site(model: ServedModel, store: ResponseStore, edge: Edge) -> AsyncIterator[Site]:
    shelf, board = Shelf(model), Board()
    async with running(app_over(shelf, board, store, edge)) as server:
        yield Site(server, shelf, board)


@pytest.fixture
async def http(site: Site) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=site.url, timeout=DEADLINE_S) as client:
        yield client


@pytest.fixture
async def openai(site: Site) -> AsyncIterator[AsyncOpenAI]:
    async with AsyncOpenAI(base_url=f"{site.url}/v1", api_key="none", max_retries=0, timeout=DEADLINE_S) as client:
        yield client
