"""Networks in namespaces: what a packet's way costs, and what an unplugged host looks like to the others."""

from __future__ import annotations

import os
import shutil
import socket
import struct
import subprocess
import sys
import time
from pathlib import Path

import pytest

from benchmarks.hosts import Host, Line, running_hosts
from benchmarks.wanlab import QUEUE_S, Side, flow

HERE, THERE = socket.inet_aton("10.77.0.1"), socket.inet_aton("10.77.0.2")
SERVE = "import socket\nlistening = socket.create_server(('', 9000)); print(flush=True)\nwhile 1: listening.accept()"

needs_namespaces = pytest.mark.skipif(
    os.getuid() != 0 or not Path("/dev/net/tun").exists() or shutil.which("ip") is None,
    reason="namespaces take root, iproute2 and /dev/net/tun",
)


def packet(source: bytes, target: bytes, source_port: int, target_port: int) -> bytes:
    head = bytes([0x45, 0, 0, 40, 0, 0, 0, 0, 64, socket.IPPROTO_TCP, 0, 0])
    return head + source + target + struct.pack(">HH", source_port, target_port) + bytes(16)


def test_packets_wait_for_those_before_them_until_the_queue_is_full() -> None:
    side = Side()
    assert side.occupy(0.0, 1000, rate=10_000) == pytest.approx(0.1)
    assert side.occupy(0.0, 1000, rate=10_000) == pytest.approx(0.2)
    side.free = 2 * QUEUE_S
    assert side.occupy(0.0, 1000, rate=10_000) is None


def test_an_answer_belongs_to_the_flow_that_it_answers() -> None:
    asked, answered = packet(HERE, THERE, 5000, 80), packet(THERE, HERE, 80, 5000)
    assert flow(asked, reply=True) == flow(answered, reply=False)
    assert flow(asked, reply=True) != flow(packet(THERE, HERE, 81, 5000), reply=False)


def connect_s(host: Host, timeout_s: float) -> float:
    started = time.perf_counter()
    socket.create_connection((host.address, 9000), timeout_s).close()
    return time.perf_counter() - started


@needs_namespaces
def test_hosts_are_a_round_trip_apart_and_silent_when_unplugged() -> None:
    with running_hosts(2, Line(delay_ms=40, rate_mbit=100)) as hosts:
        other = hosts.of(1)
        command = [*other.before, sys.executable, "-c", SERVE]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as server:
            assert server.stdout
            server.stdout.readline()
            assert 0.08 <= connect_s(other, 5) < 0.5
            hosts.plug(other, up=False)
            with pytest.raises(TimeoutError):
                connect_s(other, 0.3)
            hosts.plug(other, up=True)
            assert connect_s(other, 5) >= 0.08
            server.kill()
