"""A gateway's HTTP server in a thread with a loop of its own, for clients that block."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from queue import SimpleQueue

from fastapi import FastAPI

from tests.gateway.api.conftest import DEADLINE_S, running


@contextmanager
def serving(app: FastAPI) -> Iterator[str]:
    """The URL of a server that runs as long as this is entered."""
    begun: SimpleQueue[tuple[asyncio.AbstractEventLoop, asyncio.Event, str]] = SimpleQueue()

    async def serve() -> None:
        over = asyncio.Event()
        async with running(app) as server:
            port = server.servers[0].sockets[0].getsockname()[1]
            begun.put((asyncio.get_running_loop(), over, f"http://127.0.0.1:{port}"))
            await over.wait()

    thread = threading.Thread(target=asyncio.run, args=(serve(),))
    thread.start()
    loop, over, url = begun.get(timeout=DEADLINE_S)
    try:
        yield url
    finally:
        loop.call_soon_threadsafe(over.set)
        thread.join(2 * DEADLINE_S)
        assert not thread.is_alive()
