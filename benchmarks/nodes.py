"""The nodes of a swarm that this machine runs for a benchmark: started, and what they take of the machine."""

from __future__ import annotations

import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import psutil

from benchmarks.client import EndpointFailed
from gateway.demo_model import DEMO_MODEL, fetch_demo_model
from shared.checkpoint import Checkpoint, open_checkpoint
from shared.options import default_cache_dir
from shared.types import BlockRange
from tests.swarm import Node, Swarm, free_port, running_swarm

HIGH_WATER = "VmHWM:"
LAST_LINES = 20


@contextmanager
def running_nodes(checkpoint: Checkpoint, peers: int, threads: int, quantize: str) -> Iterator[Nodes]:
    """A gateway, and peers that hold equal parts of the model, all ready. `checkpoint` is complete on this machine."""
    borders = [checkpoint.blocks * part // peers for part in range(peers + 1)]
    with tempfile.TemporaryDirectory(prefix="corolla-bench-") as folder:
        models = {checkpoint.id: checkpoint.directory}
        with running_swarm(Path(folder), models, threads=threads) as swarm:
            ranges = [BlockRange(*ends) for ends in pairwise(borders)]
            peer_nodes = {f"peer {blocks}": swarm.add_peer(str(blocks), "--quantize", quantize) for blocks in ranges}
            for node in [*peer_nodes.values(), swarm.gateway]:
                node.ready()
            nodes = {"gateway": swarm.gateway, **peer_nodes}
            try:
                yield Nodes(swarm, nodes)
            except EndpointFailed:  # the reason is in a node's log, which ends with it
                for name, node in nodes.items():
                    print(f"{name}:", *node.errors[-LAST_LINES:], sep="\n  ", file=sys.stderr)
                raise


def local_checkpoint(model: str | None, name: str | None = None) -> Checkpoint:
    """A model (the demo's, if it is not said), complete on this machine. Raises CheckpointError."""
    cache_dir = default_cache_dir()
    if model is None:
        return open_checkpoint(str(fetch_demo_model(cache_dir)), name=DEMO_MODEL, cache_dir=cache_dir)
    checkpoint = open_checkpoint(model, name=name, cache_dir=cache_dir)
    _fetch_all(checkpoint)
    return checkpoint


def _fetch_all(checkpoint: Checkpoint) -> None:
    """Every file of the model into its folder, so that all can load from there without a hub."""
    for part in ("ends", BlockRange(0, checkpoint.blocks)):
        with checkpoint.prepare(part):
            pass


@dataclass(frozen=True, slots=True)
class Memory:
    """Resident bytes of a node: when it was ready, and the most until now; its libp2p process apart."""

    node: str
    ready_bytes: int
    peak_bytes: int
    libp2p_bytes: int


class Nodes:
    """A gateway and peers, each with its libp2p process."""

    def __init__(self, swarm: Swarm, nodes: dict[str, Node]) -> None:
        self.url = swarm.url
        self._own = {name: psutil.Process(node.process.pid) for name, node in nodes.items()}
        self._libp2p = {name: process.children(recursive=True) for name, process in self._own.items()}
        self._ready = {name: process.memory_info().rss for name, process in self._own.items()}
        self._peaks: Counter[int] = Counter()

    def cpu_s(self) -> dict[str, float]:
        """CPU seconds so far, user and system: of the gateway, of all peers, of all libp2p processes."""
        spent = {name: _cpu_s([process]) for name, process in self._own.items()}
        gateway = spent.pop("gateway")
        libp2p = sum(_cpu_s(children) for children in self._libp2p.values())
        return {"gateway": gateway, "peers": sum(spent.values()), "libp2p": libp2p}

    def look(self) -> None:
        """Note what they hold: called often where the system keeps no high-water mark."""
        for process in [*self._own.values(), *(child for each in self._libp2p.values() for child in each)]:
            self._peaks[process.pid] = max(self._peaks[process.pid], _high_water(process))

    def memory(self) -> list[Memory]:
        self.look()
        return [
            Memory(
                name,
                self._ready[name],
                self._peaks[process.pid],
                sum(self._peaks[child.pid] for child in self._libp2p[name]),
            )
            for name, process in self._own.items()
        ]


def _cpu_s(processes: list[psutil.Process]) -> float:
    times = [process.cpu_times() for process in processes]
    return sum(each.user + each.system for each in times)


def _high_water(process: psutil.Process) -> int:
    """The most bytes that were resident; where the system does not say, those that are now."""
    try:
        status = Path(f"/proc/{process.pid}/status").read_text()
    except FileNotFoundError:
        return process.memory_info().rss
    kilobytes = next((line.split()[1] for line in status.splitlines() if line.startswith(HIGH_WATER)), None)
    return process.memory_info().rss if kilobytes is None else int(kilobytes) * 1024


def demo_start_s() -> float:
    """Seconds from `gateway demo`, with a warm cache, to its ready line."""
    started = time.perf_counter()
    demo = Node("gateway", "demo", "--port", str(free_port()))
    try:
        demo.ready()
        return time.perf_counter() - started
    finally:
        demo.stop()
