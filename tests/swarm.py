"""Real swarms of real processes on loopback: each in temporary folders, on free ports, ended by who started it."""

from __future__ import annotations

import os
import queue
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

PROGRAMS = Path(sys.executable).parent
READY_S = 90.0


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return probe.getsockname()[1]


def environment() -> dict[str, str]:
    """This process's, without settings of Corolla's; one thread, since many processes share two cores."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("COROLLA_")}
    return {**kept, "HF_HUB_OFFLINE": "1"}


class Node:
    """A `peer start`, `gateway start` or `gateway demo` process."""

    def __init__(self, *command: str | Path) -> None:
        self.command = [str(word) for word in command]
        self.process = subprocess.Popen(
            [PROGRAMS / self.command[0], *self.command[1:]],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment(),
        )
        self.errors: list[str] = []
        self._out: queue.Queue[str] = queue.Queue()
        threading.Thread(target=self._read_out, daemon=True).start()
        self._reader = threading.Thread(target=self._read_errors, daemon=True)
        self._reader.start()

    def ready(self, timeout_s: float = READY_S) -> list[str]:
        """The words of the `ready` line. Fails with the log of a process that ends, or takes too long."""
        try:
            line = self._out.get(timeout=timeout_s)
        except queue.Empty:
            line = ""
        assert line.startswith("ready "), f"{self.command[:2]} printed {line!r}; its log:\n" + "\n".join(self.errors)
        return line.split()

    def stop(self, number: signal.Signals = signal.SIGTERM, timeout_s: float = 10) -> int:
        """End the process in good order; its exit status."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGCONT)
            self.process.send_signal(number)
        return self.wait(timeout_s)

    def wait(self, timeout_s: float = 30) -> int:
        """The exit status. Kills a process that does not end in time, and fails."""
        try:
            status = self.process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise
        self._reader.join(5)
        return status

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def _read_out(self) -> None:
        assert self.process.stdout
        for line in self.process.stdout:
            self._out.put(line.rstrip("\n"))
        self._out.put("")

    def _read_errors(self) -> None:
        assert self.process.stderr
        for line in self.process.stderr:
            self.errors.append(line.rstrip("\n"))


class Swarm:
    """A gateway over some models, and the peers that a test adds."""

    def __init__(self, folder: Path, models: dict[str, Path], *gateway_flags: str, threads: int = 1) -> None:
        self.folder = folder
        self._threads = str(threads)
        self.models = models
        self.name = f"test-{os.urandom(4).hex()}"
        self.port, self.p2p_port = free_port(), free_port()
        self.nodes: list[Node] = []
        self.gateway = self._start_gateway("--port", str(self.port), "--p2p-port", str(self.p2p_port), *gateway_flags)
        self.url = f"http://127.0.0.1:{self.port}"
        self.client = httpx.Client(base_url=self.url, timeout=60)

    def add_peer(self, blocks: str, *flags: str, model: str | None = None, join: str | None = None) -> Node:
        """Start a peer of a model (the first one), which joins by the gateway's URL if not elsewhere."""
        name = model or next(iter(self.models))
        source = self.models[name]
        return self._start(
            "peer", "--model", source, "--model-name", name, "--blocks", blocks, "--join", join or self.url, *flags
        )

    def add_gateway(self, *flags: str) -> tuple[Node, str]:
        """Start another gateway over the same models, which joins by the first one's URL; the node, and its own URL."""
        port = free_port()
        return self._start_gateway("--port", str(port), "--join", self.url, *flags), f"http://127.0.0.1:{port}"

    def peers(self) -> list[dict[str, Any]]:
        return self.client.get("/swarm").json()["peers"]

    def wait_for(self, condition: Callable[[], object], timeout_s: float = 30) -> None:
        """Look again and again until it is true; AssertionError with the logs after the deadline."""
        deadline = time.monotonic() + timeout_s
        while not condition():
            assert time.monotonic() < deadline, "\n".join(line for node in self.nodes for line in node.errors)
            time.sleep(0.05)

    def until_listening(self) -> None:
        self.wait_for(self._answers, READY_S)

    def free_cache(self) -> dict[str, tuple[int | None, int]]:
        """Free and all cache tokens of each peer."""
        return {each["peer"]: (each["free_cache_tokens"], each["cache_tokens"]) for each in self.peers()}

    def all_cache_free(self) -> bool:
        return all(free == total for free, total in self.free_cache().values())

    def close(self) -> None:
        self.client.close()
        for node in reversed(self.nodes):
            if node.process.poll() is None:
                node.process.send_signal(signal.SIGCONT)
                node.process.terminate()
                node.process.send_signal(signal.SIGINT)  # a second signal: at once, whatever still runs
        for node in self.nodes:
            node.wait(15)

    def _answers(self) -> bool:
        try:
            return self.client.get("/health").status_code in (200, 503)
        except httpx.TransportError:
            assert self.gateway.process.poll() is None, "\n".join(self.gateway.errors)
            return False

    def _start_gateway(self, *flags: str) -> Node:
        models = [word for name, path in self.models.items() for word in ("--model", path, "--model-name", name)]
        return self._start("gateway", *models, *flags)

    def _start(self, program: str, *flags: str | Path) -> Node:
        state = self.folder / f"state-{len(self.nodes)}"
        common = ("--swarm", self.name, "--listen", "127.0.0.1", "--threads", self._threads, "--device", "cpu")
        node = Node(program, "start", *flags, *common, "--state-dir", state, "--cache-dir", self.folder / "cache")
        self.nodes.append(node)
        return node


@contextmanager
def running_swarm(folder: Path, models: dict[str, Path], *gateway_flags: str, threads: int = 1) -> Iterator[Swarm]:
    """A swarm with its gateway started, ended with the context."""
    swarm = Swarm(folder, models, *gateway_flags, threads=threads)
    try:
        yield swarm
    finally:
        swarm.close()
