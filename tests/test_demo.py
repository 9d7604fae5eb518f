"""`gateway demo`, as a user starts and ends it."""

from __future__ import annotations

import signal
import socket
import time
from collections.abc import Iterator

import httpx
import psutil
import pytest

from gateway.demo_model import DEMO_MODEL
from tests.swarm import Node, free_port


@pytest.fixture
def port() -> int:
    return free_port()


@pytest.fixture
def demo(port: int) -> Iterator[Node]:
    demo = Node("gateway", "demo", "--port", str(port), "--peers", "2")
    yield demo
    if demo.process.poll() is None:
        demo.stop()


def family(demo: Node) -> list[psutil.Process]:
    """The demo's process and all that it started, and those started."""
    process = psutil.Process(demo.process.pid)
    return [process, *process.children(recursive=True)]


def peers_of(processes: list[psutil.Process]) -> list[psutil.Process]:
    """Those that `ps` shows as `peer start …`."""
    return [each for each in processes if "peer start --model" in " ".join(each.cmdline())]


def test_it_answers_and_ctrl_c_leaves_no_process(demo: Node, port: int) -> None:
    assert demo.ready(240) == ["ready", f"http://127.0.0.1:{port}/v1"]
    models = httpx.get(f"http://127.0.0.1:{port}/v1/models").json()["data"]
    assert [each["id"] for each in models] == [DEMO_MODEL]
    processes = family(demo)
    assert len(peers_of(processes)) == 2
    assert not any(name.startswith("COROLLA_") for peer in peers_of(processes) for name in peer.environ())
    assert demo.stop(signal.SIGINT) == 0
    assert any(line.startswith("curl ") for line in demo.errors)
    _, alive = psutil.wait_procs(processes, timeout=3)
    assert not alive


@pytest.mark.slow
def test_a_stream_does_not_hold_up_its_end(demo: Node, port: int) -> None:
    demo.ready(240)
    messages = [{"role": "user", "content": "Count from one to a thousand, in words."}]
    body = {"model": DEMO_MODEL, "messages": messages, "stream": True, "max_tokens": 4000}
    with httpx.stream("POST", f"http://127.0.0.1:{port}/v1/chat/completions", json=body, timeout=60) as response:
        assert response.status_code == 200
        assert demo.stop(signal.SIGINT) == 0


@pytest.mark.slow
def test_peers_end_when_the_demo_is_killed(demo: Node) -> None:
    demo.ready(240)
    processes = family(demo)
    demo.kill()
    _, alive = psutil.wait_procs(processes, timeout=10)
    assert not alive


def test_a_peer_that_dies_at_start_is_reported_with_its_reason(demo: Node) -> None:
    deadline = time.monotonic() + 60
    while not (started := peers_of(family(demo))):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    started[0].kill()
    assert demo.wait(60) != 0
    assert any("before it was ready" in line for line in demo.errors)


def test_a_port_in_use_is_told_before_anything_starts(port: int) -> None:
    with socket.create_server(("127.0.0.1", port)):
        demo = Node("gateway", "demo", "--port", str(port))
        assert demo.wait(60) != 0
    assert any("--port" in line for line in demo.errors)
