"""What keeps a py-libp2p 0.8.1 host alive, and in its bounds, whatever others send.

Left alone, an exception in any stream handler or service task ends the whole host; each inbound connection keeps its
slot and its task after its end, so that the 250th is the last; any two processes may listen on one port; each dial
waits for happy eyeballs; unknown addresses that others name are dialled.
"""

from __future__ import annotations

import logging
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import wraps
from typing import Any

import libp2p.network.swarm as libp2p_swarm
import libp2p.transport.tcp.tcp as libp2p_tcp
import trio
from libp2p.abc import INetStream
from libp2p.host.basic_host import BasicHost
from libp2p.io.abc import ReadWriteCloser
from libp2p.network.auto_connector import AutoConnector
from libp2p.network.connection.raw_connection import RawConnection
from libp2p.network.swarm import Swarm
from libp2p.tools.anyio_service.api import AsyncFn, ServiceAPI
from libp2p.tools.anyio_service.trio_manager import TrioManager
from multiaddr import Multiaddr

logger = logging.getLogger(__name__)


def contain_library() -> None:
    """Change what the library keeps in module globals and classes; once per process."""
    libp2p_swarm._HAPPY_EYEBALLS_DELAY = 0.01
    libp2p_tcp._set_reuse_flags = lambda sock: sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    AutoConnector.maybe_connect = _never  # type: ignore[method-assign]
    Swarm._do_handle_inbound_connection = _accept  # type: ignore[method-assign]


def contain_handlers(host: BasicHost) -> None:
    """From now on a stream handler that raises, the library's own included, costs its stream and nothing else."""
    handle = host._swarm_stream_handler

    async def contained(stream: INetStream) -> None:
        try:
            await handle(stream)
        except Exception as error:  # noqa: BLE001 - others decide what arrives here, and what it breaks
            logger.debug("a stream handler failed: %r", error)
            await quietly(stream.reset)

    host.get_network().set_stream_handler(contained)


@asynccontextmanager
async def running(service: ServiceAPI) -> AsyncIterator[None]:
    """Run one of the library's services; tasks that it starts for others may fail, its own daemons may not."""
    async with trio.open_nursery() as nursery:
        manager = _Manager(service)
        service._manager = manager  # type: ignore[attr-defined]
        nursery.start_soon(manager.run)
        await manager.wait_started()
        try:
            yield
        finally:
            await manager.stop()


class _Manager(TrioManager):
    def run_task(
        self, async_fn: AsyncFn, *args: Any, daemon: bool = False, name: str | None = None, _internal: bool = False
    ) -> None:
        task = async_fn if daemon or _internal else _contained(async_fn)
        super().run_task(task, *args, daemon=daemon, name=name, _internal=_internal)


def _contained(async_fn: AsyncFn) -> AsyncFn:
    @wraps(async_fn)
    async def contained(*args: Any) -> None:
        try:
            await async_fn(*args)
        except Exception as error:  # noqa: BLE001 - others decide what arrives here, and what it breaks
            logger.debug("a libp2p task failed: %r", error)

    return contained


async def _never(_connector: AutoConnector) -> None:
    """Dial nobody: `neighbours` chooses whom to dial."""


async def _accept(swarm: Swarm, stream: ReadWriteCloser, listener: Multiaddr, _event: object) -> None:
    """Serve an inbound connection, and return when it has ended, which frees its slot."""
    connection = RawConnection(stream, False)
    try:
        muxed = await swarm.upgrade_inbound_raw_conn(connection, listener)
        await muxed.event_closed.wait()  # type: ignore[attr-defined]
    except Exception as error:  # noqa: BLE001 - others decide what arrives here, and what it breaks
        logger.debug("an inbound connection failed: %r", error)
    finally:
        await quietly(connection.close)


async def quietly(close: Callable[[], Awaitable[object]]) -> None:
    """End something, within a second even where the task around it was cancelled."""
    deadline = trio.move_on_after(1)
    deadline.shield = True
    with deadline:
        try:
            await close()
        except Exception as error:  # noqa: BLE001 - it is over either way
            logger.debug("closing failed: %r", error)
