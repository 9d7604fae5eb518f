"""The libp2p process as the program sees it: started, started again when it dies, ended. Imports no libp2p."""

from __future__ import annotations

import asyncio
import logging
import os
import sys
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path

import shared
from shared.errors import CorollaError, FrameError, UsageError
from shared.libp2p_node.messages import Command, Event, Failed, Start, Started, Stop, encode, event_reader

logger = logging.getLogger(__name__)

START_S = 60.0
STOP_S = 1.7
FIRST_RETRY_S = 0.2
LAST_RETRY_S = 10.0
STEADY_S = 30.0
READ_BYTES = 256 * 1024


class Libp2pProcess:
    """Each process that is started hears `start()` and then the commands of `greeting(port)`; `on_event` hears it."""

    def __init__(
        self,
        start: Callable[[], Start],
        greeting: Callable[[int], Iterable[Command]],
        on_event: Callable[[Event], None],
        on_death: Callable[[], None],
    ) -> None:
        self._start = start
        self._greeting = greeting
        self._on_event = on_event
        self._on_death = on_death
        self._process: asyncio.subprocess.Process | None = None
        self._listens = False
        self._stopping = False

    @property
    def pid(self) -> int | None:
        """Of the process that runs now."""
        return self._process.pid if self._process else None

    async def start(self) -> None:
        """Returns when it listens, and is kept running from then on. Raises UsageError, CorollaError."""
        listens = asyncio.get_running_loop().create_future()
        self._task = asyncio.create_task(self._keep_running(listens))
        try:
            await asyncio.wait_for(listens, START_S)
        except TimeoutError as error:
            raise CorollaError(f"libp2p did not start within {START_S:g} s; its log is above") from error
        finally:
            if not listens.done() or listens.cancelled() or listens.exception():
                self._task.cancel()
                await asyncio.wait({self._task})

    def send(self, command: Command) -> None:
        """Tell the process, if it listens. One that starts later is told everything by its greeting."""
        if self._process and self._process.stdin and self._listens:
            self._process.stdin.write(encode(command))

    async def stop(self) -> None:
        """Let it send what it was told, and end it; by force when it takes too long."""
        self._stopping = True
        self.send(Stop())
        if not self._listens:
            self._task.cancel()
        await asyncio.wait({self._task}, timeout=STOP_S)
        self._task.cancel()
        await asyncio.wait({self._task})
        if not self._task.cancelled():
            self._task.result()

    async def _keep_running(self, listens: asyncio.Future[None]) -> None:
        delay = FIRST_RETRY_S
        while not self._stopping:
            began = time.monotonic()
            reason = await self._run_once(listens)
            if not listens.done():
                listens.set_exception(CorollaError(f"libp2p did not start: {reason}; its log is above"))
            if self._stopping or listens.cancelled() or listens.exception():
                return
            delay = FIRST_RETRY_S if time.monotonic() - began > STEADY_S else min(2 * delay, LAST_RETRY_S)
            logger.warning("the libp2p process has died (%s); it is started again", reason)
            await asyncio.sleep(delay)

    async def _run_once(self, listens: asyncio.Future[None]) -> str:
        """From the start of a process to its end, whose reason is returned."""
        try:
            self._process = await _spawn()
        except OSError as error:
            return str(error)
        try:
            assert self._process.stdin
            self._process.stdin.write(encode(self._start()))
            await self._follow(self._process, listens)
        except FrameError as error:
            return f"it did not speak as it should: {error}"
        finally:
            self._listens = False
            with suppress(ProcessLookupError):
                self._process.kill()
            await self._process.wait()
            self._on_death()
        return f"status {self._process.returncode}"

    async def _follow(self, process: asyncio.subprocess.Process, listens: asyncio.Future[None]) -> None:
        assert process.stdout
        reader = event_reader()
        while data := await process.stdout.read(READ_BYTES):
            for event in reader.feed(data):
                self._hear(event, listens)

    def _hear(self, event: Event, listens: asyncio.Future[None]) -> None:
        match event:
            case Started(port):
                self._listens = True
                for command in self._greeting(port):
                    self.send(command)
                if not listens.done():
                    listens.set_result(None)
            case Failed(code, reason):
                self._fail(code, reason, listens)
            case _:
                self._on_event(event)

    def _fail(self, code: str, reason: str, listens: asyncio.Future[None]) -> None:
        start = self._start()
        first, last = start.ports[0], start.ports[-1]
        ports = f"port {first}" if first == last else f"each port from {first} to {last}"
        taken = f"{ports} of {start.listen} is taken, or not allowed: pass another --p2p-port or --listen"
        if listens.done():
            logger.warning("the libp2p process ended: %s", taken if code == "port" else reason)
        else:
            listens.set_exception(UsageError(taken) if code == "port" else CorollaError(f"libp2p failed: {reason}"))


async def _spawn() -> asyncio.subprocess.Process:
    """In a session of its own: Ctrl-C is the program's business. It ends when its stdin does."""
    root = str(Path(shared.__file__).parent.parent)
    path = os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH"))))
    return await asyncio.create_subprocess_exec(
        sys.executable,
        "-P",
        "-m",
        "shared.libp2p_node",
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": path},
        start_new_session=True,
    )
