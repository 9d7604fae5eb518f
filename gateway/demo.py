"""`gateway demo`: a small real model, split over peers on this machine, and a gateway in front of them."""

from __future__ import annotations

import asyncio
import importlib
import os
import secrets
import socket
import sys
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import click

from gateway.demo_model import DEMO_MODEL, fetch_demo_model
from gateway.settings import GatewaySettings
from shared.checkpoint import Checkpoint, open_checkpoint
from shared.errors import CorollaError
from shared.identity import Identity
from shared.ports import take_port
from shared.program import Leaving, beside, together
from shared.types import BlockRange

HOST = "127.0.0.1"
PARTS = 3
DRAIN_S = 3.0
END_S = 4.0
LAST_LINES = 15


class PeerDied(CorollaError):
    """A peer of the demo ended before it was ready."""


async def run_demo(leaving: Leaving, peers: int, port: int, quantize: str, threads: int, cache_dir: Path) -> None:
    """Serve until cancelled, or asked to leave. Nothing is left behind: no process, no state.

    Raises PeerDied with the peer's reason.
    """
    listening = take_port(HOST, port, port, "--port")
    directory = await beside(fetch_demo_model, cache_dir)
    checkpoint = await beside(lambda: open_checkpoint(str(directory), name=DEMO_MODEL, cache_dir=cache_dir))
    with TemporaryDirectory(prefix="corolla-demo-") as state:
        demo = Demo(Path(state), checkpoint, threads, quantize, cache_dir)
        settings = demo.gateway_settings(port)
        async with demo.peers(peers) as processes:
            _say(f"starting {peers} peers and a gateway")
            node = await beside(importlib.import_module, "gateway.node")  # torch: seconds that the peers need too
            await together(
                node.run_gateway(
                    settings, demo.identity, [checkpoint], listening, leaving, on_ready=lambda: _say(_example(port))
                ),
                *(demo.watch(number, process) for number, process in enumerate(processes, 1)),
            )


class Demo:
    """What the processes of one demo share: a swarm with a random name, on loopback, in temporary folders."""

    def __init__(self, state: Path, checkpoint: Checkpoint, threads: int, quantize: str, cache_dir: Path) -> None:
        self.identity = Identity.create()
        self._state = state
        self._checkpoint = checkpoint
        self._threads = threads
        self._quantize = quantize
        self._cache_dir = cache_dir
        self._swarm = f"demo-{secrets.token_hex(4)}"
        self._p2p_port = _free_port()

    def gateway_settings(self, port: int) -> GatewaySettings:
        return GatewaySettings(
            model=(str(self._checkpoint.directory),),
            model_name=(DEMO_MODEL,),
            host=HOST,
            port=port,
            head="none",
            queue_length=64,
            queue_seconds=60,
            drain_seconds=DRAIN_S,
            wait_for_coverage=30,
            require_keys=False,
            host_name=(),
            database=None,
            max_requests=256,
            request_seconds=600,
            body_limit=10_000_000,
            cors_origin=(),
            tls_cert=None,
            tls_key=None,
            join=(),
            swarm=self._swarm,
            listen=HOST,
            p2p_port=self._p2p_port,
            data_port=None,
            announce=(),
            device="cpu",
            dtype="float32",
            threads=self._threads,
            state_dir=self._state / "gateway",
            cache_dir=self._cache_dir,
        )

    @asynccontextmanager
    async def peers(self, count: int) -> AsyncIterator[list[asyncio.subprocess.Process]]:
        """The peers' processes, ended with the context; by the end of their stdin too, if this process is killed."""
        processes = [await self._spawn(number, blocks) for number, blocks in enumerate(self._ranges(count), 1)]
        try:
            yield processes
        finally:
            await asyncio.gather(*(_end(process) for process in processes))

    async def watch(self, number: int, process: asyncio.subprocess.Process) -> None:
        """Pass on what a peer says. Raises PeerDied when it ends before it is ready; a later end is only told."""
        assert process.stdout
        assert process.stderr
        said: deque[str] = deque(maxlen=LAST_LINES)
        telling = asyncio.create_task(_tell(process.stderr, number, said))
        ready = await process.stdout.readline()
        if not ready:
            code = await process.wait()
            await telling
            raise PeerDied(f"peer {number} ended with status {code} before it was ready:\n" + "\n".join(said))
        _say(f"peer {number} serves blocks {ready.split()[-1].decode()}")
        code = await process.wait()
        _say(f"peer {number} has ended with status {code}; the others go on")
        await asyncio.get_running_loop().create_future()

    def _ranges(self, count: int) -> list[BlockRange]:
        """Peer k holds range k mod m of m equal ranges: six peers are two whole copies."""
        parts, blocks = min(count, PARTS), self._checkpoint.blocks
        borders = [part * blocks // parts for part in range(parts + 1)]
        return [BlockRange(borders[k % parts], borders[k % parts + 1]) for k in range(count)]

    async def _spawn(self, number: int, blocks: BlockRange) -> asyncio.subprocess.Process:
        arguments = {
            "--model": self._checkpoint.directory,
            "--model-name": DEMO_MODEL,
            "--blocks": blocks,
            "--join": f"/ip4/{HOST}/tcp/{self._p2p_port}/p2p/{self.identity.peer}",
            "--swarm": self._swarm,
            "--listen": HOST,
            "--device": "cpu",
            "--dtype": "float32",
            "--quantize": self._quantize,
            "--cache-tokens": 65536,  # not auto: each peer would take what is free for itself
            "--threads": self._threads,
            "--state-dir": self._state / f"peer-{number}",
            "--cache-dir": self._cache_dir,
            "--log-level": "error",
        }
        return await asyncio.create_subprocess_exec(
            Path(sys.executable).with_name("peer"),
            "start",
            *(str(word) for pair in arguments.items() for word in pair),
            "--exit-with-parent",
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env={name: value for name, value in os.environ.items() if not name.startswith("COROLLA_")},
            start_new_session=True,  # Ctrl-C reaches this process alone, which ends the others in good order
        )


async def _tell(stderr: asyncio.StreamReader, number: int, said: deque[str]) -> None:
    while line := await stderr.readline():
        text = line.decode(errors="replace").rstrip()
        said.append(text)
        _say(f"peer {number}: {text}")


async def _end(process: asyncio.subprocess.Process) -> None:
    """At once: by the end of its stdin, and by a signal if it does not look at that yet."""
    if process.returncode is not None:
        return
    assert process.stdin
    process.stdin.close()
    process.terminate()
    try:
        await asyncio.wait_for(process.wait(), END_S)
    except TimeoutError:
        process.kill()
        await process.wait()


def _example(port: int) -> str:
    """A command to paste."""
    question = '{"role": "user", "content": "What is the capital of France?"}'
    body = f'{{"model": "{DEMO_MODEL}", "temperature": 0, "messages": [{question}]}}'
    return f"curl http://{HOST}:{port}/v1/chat/completions -H 'Content-Type: application/json' -d '{body}'"


def _free_port() -> int:
    with socket.create_server((HOST, 0)) as probe:
        return probe.getsockname()[1]


def _say(line: str) -> None:
    click.echo(line, err=True)
