"""Hosts that nodes run on: all on this machine's loopback, or each in a namespace behind a slow line (wanlab)."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from benchmarks import wanlab
from benchmarks.client import EndpointFailed

OWN_NETWORK = "/proc/self/ns/net"


@dataclass(frozen=True, slots=True)
class Host:
    """Where a node runs: the address that others reach it at, and the words before its command."""

    name: str
    address: str
    before: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Line:
    """How every host is connected: its share of the one-way delay to any other, and what it sends and receives."""

    delay_ms: float
    rate_mbit: float

    @property
    def round_trip_s(self) -> float:
        return 2 * self.delay_ms / 1e3

    @property
    def bytes_per_s(self) -> float:
        return self.rate_mbit * 125_000


class Hosts(Protocol):
    def of(self, number: int) -> Host:
        """The gateway's is number 0; this process is on it."""
        ...

    def plug(self, host: Host, up: bool) -> None:
        """Plug a host in or unplug it: its packets vanish, and nobody is told."""
        ...


class Loopback:
    """One host for all, which cannot be unplugged."""

    def of(self, number: int) -> Host:
        return Host(f"h{number}", "127.0.0.1")

    def plug(self, host: Host, up: bool) -> None:
        raise NotImplementedError("loopback has no plug: the plan of faults must not have one")


class Namespaces:
    """Hosts in namespaces, whose router takes orders on a socket."""

    def __init__(self, hosts: Sequence[Host], control: str) -> None:
        self._hosts = hosts
        self._control = control

    def of(self, number: int) -> Host:
        return self._hosts[number]

    def plug(self, host: Host, up: bool) -> None:
        wanlab.ask({"hosts": [host.name], "up": up}, self._control)


@contextmanager
def running_hosts(count: int, line: Line | None) -> Iterator[Hosts]:
    """So many hosts, and this process on the first. Raises EndpointFailed where no namespaces can be made."""
    if line is None:
        yield Loopback()
        return
    names = [f"c{os.getpid()}-{number}" for number in range(count)]  # other networks may run on this machine
    with tempfile.TemporaryDirectory(prefix="corolla-wan-") as folder:
        control = str(Path(folder) / "router.sock")
        with _router(names, line, control), _inside(names[0]):
            yield Namespaces([_host(each) for each in wanlab.ask({"hosts": []}, control)], control)


def _host(state: dict[str, str]) -> Host:
    program = shutil.which("ip") or "ip"
    return Host(state["host"], state["address"], (program, "netns", "exec", wanlab.namespace(state["host"])))


@contextmanager
def _router(names: list[str], line: Line, control: str) -> Iterator[None]:
    words = ["--control", control, "up", *names]
    shape = ["--delay-ms", str(line.delay_ms), "--rate-mbit", str(line.rate_mbit)]
    command = [sys.executable, "-m", "benchmarks.wanlab", *words, *shape]
    router = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert router.stdout
        assert router.stderr
        if not any(said.startswith("ready") for said in router.stdout):
            reason = (router.stderr.read().strip().splitlines() or ["it said nothing"])[-1]
            raise EndpointFailed(f"no network in namespaces ({reason}): it takes root, iproute2 and /dev/net/tun")
        yield
    finally:
        router.terminate()
        router.communicate()


@contextmanager
def _inside(host: str) -> Iterator[None]:
    """This thread, and all that it starts, on a host: so the benchmark's client talks to its gateway on loopback."""
    with Path(OWN_NETWORK).open() as own:
        wanlab.enter(f"/run/netns/{wanlab.namespace(host)}")
        try:
            yield
        finally:
            wanlab.enter(f"/proc/self/fd/{own.fileno()}")
