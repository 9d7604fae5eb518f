"""A wide-area network on one machine: hosts in network namespaces, and a router that delays, limits and loses packets.

Each host is a namespace `wl-NAME` with one interface `wan0` (10.77.0.N/24). One process, this one, holds the other end
of every interface and forwards IP packets between them, so programs need no change:

    python -m benchmarks.wanlab up gw p1 p2 p3 --delay-ms 25 --rate-mbit 100 &   # 50 ms there and back between any two
    ip netns exec wl-p1 COMMAND
    python -m benchmarks.wanlab set p2 --delay-ms 100   # this host's own share of the one-way delay, while it runs
    python -m benchmarks.wanlab set p2 --down           # unplug a host: packets vanish, no reset is sent; then --up
    python -m benchmarks.wanlab set p2 --closed         # as behind a home router: only flows that it began get in
    python -m benchmarks.wanlab down                    # end the router, remove the namespaces

One-way delay between two hosts is the mean of their `delay-ms`, plus up to `jitter-ms`; the rate limits what each host
sends and what it receives. Multicast and broadcast reach every host, so a local network's discovery works. Two networks
at once need other names and another `--control`. Needs root, iproute2 and /dev/net/tun.
"""

from __future__ import annotations

import argparse
import ctypes
import fcntl
import heapq
import json
import os
import random
import select
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

CONTROL = "/run/wanlab.sock"
TUNSETIFF, IFF_TUN, IFF_NO_PI = 0x400454CA, 0x0001, 0x1000
CLONE_NEWNET = 0x40000000
QUEUE_S = 0.5  # a packet that would wait longer than this for its turn on a line is dropped
AT_ONCE = 64  # packets of one host that are read before the others have their turn
PACKET_BYTES, ORDER_BYTES = 65536, 65536

Order = Mapping[str, Any]
"""What the control socket is told: `hosts`, what changes for them, and `stop`."""


@dataclass(slots=True)
class Side:
    """One direction of a host's line, on which packets wait for each other."""

    free: float = 0.0  # when it is next idle

    def occupy(self, now: float, size: int, rate: float) -> float | None:
        """When a packet has passed, at `rate` bytes a second (0: no limit); None where the queue is full."""
        if not rate:
            return now
        start = max(now, self.free)
        if start - now > QUEUE_S:
            return None
        self.free = start + size / rate
        return self.free


@dataclass(slots=True)
class Host:
    """A namespace, the other end of its interface (`fd`), and how its packets travel."""

    name: str
    address: str
    fd: int = -1
    delay_s: float = 0.0
    jitter_s: float = 0.0
    rate: float = 0.0  # bytes a second, 0 for no limit
    loss: float = 0.0  # probability
    up: bool = True
    closed: bool = False
    flows: set[bytes] = field(default_factory=set)  # that it began, as the replies to them are addressed
    sending: Side = field(default_factory=Side)
    receiving: Side = field(default_factory=Side)
    sent: int = 0
    received: int = 0
    lost: int = 0

    @property
    def namespace(self) -> str:
        return namespace(self.name)

    def change(self, order: Order) -> None:
        """Take over what an order says; None and what is missing change nothing."""
        said = {name: value for name, value in order.items() if value is not None}
        self.delay_s = said.get("delay_ms", 1e3 * self.delay_s) / 1e3
        self.jitter_s = said.get("jitter_ms", 1e3 * self.jitter_s) / 1e3
        self.rate = said.get("rate_mbit", self.rate / 125_000) * 125_000
        self.loss = said.get("loss", self.loss)
        self.up = said.get("up", self.up)
        if "closed" in said:
            self.closed = said["closed"]
            self.flows.clear()

    def state(self) -> dict[str, Any]:
        line = {"delay_ms": 1e3 * self.delay_s, "rate_mbit": self.rate / 125_000, "loss": self.loss}
        counts = {"sent": self.sent, "received": self.received, "lost": self.lost}
        return {"host": self.name, "address": self.address, **line, "up": self.up, "closed": self.closed, **counts}


class Router:
    """Forwards packets between hosts, and obeys the control socket. `run` never returns."""

    def __init__(self, hosts: list[Host], control: socket.socket) -> None:
        self._hosts = hosts
        self._by_address = {socket.inet_aton(host.address): host for host in hosts}
        self._by_fd = {host.fd: host for host in hosts}
        self._control = control
        self._pending: list[tuple[float, int, Host, bytes]] = []  # a heap: due, number, to whom, packet
        self._number = 0
        self._last_due: dict[tuple[str, str], float] = {}

    def run(self) -> NoReturn:
        readable = [*self._by_fd, self._control.fileno()]
        while True:
            timeout = max(0.0, self._pending[0][0] - time.monotonic()) if self._pending else None
            for fd in select.select(readable, [], [], timeout)[0]:
                if fd == self._control.fileno():
                    self._obey()
                else:
                    self._accept(self._by_fd[fd])
            self._deliver()

    def _accept(self, source: Host) -> None:
        for _ in range(AT_ONCE):
            try:
                packet = os.read(source.fd, PACKET_BYTES)
            except BlockingIOError:
                return
            if packet[0] >> 4 != 4:  # IPv4 alone
                continue
            source.sent += 1
            source.flows.add(flow(packet, reply=True))
            for target in self._targets(source, packet):
                self._carry(source, target, packet)

    def _targets(self, source: Host, packet: bytes) -> list[Host]:
        if packet[16] >= 224 or packet[19] == 255:  # multicast, broadcast
            return [host for host in self._hosts if host is not source]
        return [host for host in [self._by_address.get(packet[16:20])] if host]

    def _carry(self, source: Host, target: Host, packet: bytes) -> None:
        refused = target.closed and flow(packet, reply=False) not in target.flows
        lost = not (source.up and target.up) or random.random() < max(source.loss, target.loss)
        now = time.monotonic()
        left = None if refused or lost else source.sending.occupy(now, len(packet), source.rate)
        arrived = None if left is None else target.receiving.occupy(left, len(packet), target.rate)
        if arrived is None:
            target.lost += 1
            return
        jitter_s = random.random() * max(source.jitter_s, target.jitter_s)
        pair = (source.name, target.name)
        due = max(arrived + (source.delay_s + target.delay_s) / 2 + jitter_s, self._last_due.get(pair, 0.0))
        self._last_due[pair] = due  # jitter never reorders
        self._number += 1
        heapq.heappush(self._pending, (due, self._number, target, packet))

    def _deliver(self) -> None:
        now = time.monotonic()
        while self._pending and self._pending[0][0] <= now:
            _, _, target, packet = heapq.heappop(self._pending)
            try:
                if target.up:
                    os.write(target.fd, packet)
                    target.received += 1
                else:
                    target.lost += 1
            except BlockingIOError:
                target.lost += 1

    def _obey(self) -> None:
        connection, _ = self._control.accept()
        with connection:
            order = json.loads(connection.recv(ORDER_BYTES))
            for host in self._hosts:
                if host.name in order["hosts"]:
                    host.change(order)
            connection.sendall(json.dumps([host.state() for host in self._hosts]).encode())
        if order.get("stop"):
            raise SystemExit(0)


def flow(packet: bytes, *, reply: bool) -> bytes:
    """Protocol, addresses and ports of a packet, or of what would answer it."""
    header = (packet[0] & 15) * 4
    source, target = packet[12:16] + packet[header : header + 2], packet[16:20] + packet[header + 2 : header + 4]
    if packet[9] == socket.IPPROTO_ICMP:
        source, target = packet[12:16], packet[16:20]
    return packet[9:10] + (target + source if reply else source + target)


def namespace(host: str) -> str:
    return f"wl-{host}"


def enter(path: str) -> None:
    """Put this thread, and those that it starts from now on, into the network namespace of a file. Raises OSError."""
    libc = ctypes.CDLL(None, use_errno=True)
    with Path(path).open() as handle:
        if libc.setns(handle.fileno(), CLONE_NEWNET):
            raise OSError(ctypes.get_errno(), f"{path} cannot be entered: are you root?")


def ask(order: Order, control: str = CONTROL) -> list[dict[str, Any]]:
    """Tell a router something; the state of its hosts. Raises OSError when none is there."""
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(control)
        client.sendall(json.dumps(dict(order)).encode())
        client.shutdown(socket.SHUT_WR)
        return json.loads(b"".join(iter(lambda: client.recv(PACKET_BYTES), b"")))


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True)


def _open_tun(host: Host) -> int:
    """Make `wan0` inside a namespace: only the opening thread enters it."""

    def make() -> int:
        enter(f"/run/netns/{host.namespace}")
        fd = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
        fcntl.ioctl(fd, TUNSETIFF, struct.pack("16sH22x", b"wan0", IFF_TUN | IFF_NO_PI))
        return fd

    with ThreadPoolExecutor(1) as thread:
        return thread.submit(make).result()


def _plug_in(host: Host) -> None:
    _ip("netns", "add", host.namespace)
    host.fd = _open_tun(host)
    _ip("-n", host.namespace, "addr", "add", f"{host.address}/24", "dev", "wan0")
    _ip("-n", host.namespace, "link", "set", "wan0", "up", "mtu", "1500", "multicast", "on")
    _ip("-n", host.namespace, "route", "add", "224.0.0.0/4", "dev", "wan0")
    _ip("-n", host.namespace, "link", "set", "lo", "up")


def _remove(host: Host) -> None:
    subprocess.run(["ip", "netns", "del", host.namespace], stderr=subprocess.DEVNULL, check=False)


@contextmanager
def _plugged_in(names: list[str]) -> Iterator[list[Host]]:
    """Hosts with the addresses 10.77.0.1 and so on, in this order; what is left of older ones goes first."""
    hosts = [Host(name, f"10.77.0.{number}") for number, name in enumerate(names, start=1)]
    try:
        for host in hosts:
            _remove(host)
            _plug_in(host)
        yield hosts
    finally:
        for host in hosts:
            if host.fd >= 0:
                os.close(host.fd)
            _remove(host)


def _up(arguments: argparse.Namespace) -> None:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    with _plugged_in(arguments.hosts) as hosts, socket.socket(socket.AF_UNIX) as control:
        for host in hosts:
            host.change(vars(arguments))
            print(f"{host.name} {host.address}  ip netns exec {host.namespace} ...", flush=True)
        path = Path(arguments.control)
        path.unlink(missing_ok=True)
        control.bind(str(path))
        control.listen()
        print("ready", flush=True)
        try:
            Router(hosts, control).run()
        finally:
            path.unlink()


def main() -> None:
    arguments = parse()
    if arguments.verb == "up":
        _up(arguments)
        return
    orders = {"set": vars(arguments), "show": {"hosts": []}, "down": {"hosts": [], "stop": True}}
    for row in ask(orders[arguments.verb], arguments.control):
        print("  ".join(f"{key}={value}" for key, value in row.items()))


def parse(words: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.wanlab", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--control", default=CONTROL, help="socket on which the router takes orders")
    verbs = parser.add_subparsers(dest="verb", required=True)
    line = argparse.ArgumentParser(add_help=False)
    line.add_argument("hosts", nargs="+")
    line.add_argument("--delay-ms", type=float)
    line.add_argument("--jitter-ms", type=float)
    line.add_argument("--rate-mbit", type=float, help="0 for no limit")
    line.add_argument("--loss", type=float, help="probability that a packet is lost")
    verbs.add_parser("up", parents=[line])
    change = verbs.add_parser("set", parents=[line])
    change.add_argument("--down", dest="up", action="store_false", default=None)
    change.add_argument("--up", dest="up", action="store_true", default=None)
    change.add_argument("--closed", dest="closed", action="store_true", default=None)
    change.add_argument("--open", dest="closed", action="store_false", default=None)
    verbs.add_parser("show")
    verbs.add_parser("down")
    return parser.parse_args(words)


if __name__ == "__main__":
    main()
