"""Peers and gateways that are told to end while they work: real processes, real signals."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from typing import Any

import httpx
import psutil
import pytest

from tests.streams import Stream
from tests.swarm import Node, Swarm, running_swarm
from tests.tiny_models import make_tiny_model

MODEL = "tiny"
ASKED: dict[str, Any] = {"model": MODEL, "messages": [{"role": "user", "content": "Hi"}], "temperature": 0}
AT_ONCE_S = 4


@pytest.fixture(scope="module")
def shared_swarm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Swarm]:
    """A gateway and a peer with half of the model, which never stops by itself; the other half is a test's."""
    model = make_tiny_model(tmp_path_factory.mktemp("model"), blocks=4, context=8192, seed=4)
    with running_swarm(tmp_path_factory.mktemp("swarm"), {MODEL: model}, "--wait-for-coverage", "0.5") as swarm:
        swarm.add_peer("0:2").ready()
        yield swarm


@pytest.fixture
def swarm(shared_swarm: Swarm) -> Iterator[Swarm]:
    """The nodes that a test adds end with it."""
    kept = len(shared_swarm.nodes)
    yield shared_swarm
    for node in shared_swarm.nodes[kept:]:
        node.kill()
    shared_swarm.wait_for(lambda: len(shared_swarm.peers()) == 1 and shared_swarm.all_cache_free())


@pytest.fixture
def gateway(swarm: Swarm) -> tuple[Node, str]:
    """One of the test's own, over the whole model; its node and its URL."""
    peer, (gateway, url) = swarm.add_peer("2:4"), swarm.add_gateway()
    peer.ready()
    gateway.ready()
    return gateway, url


def usable(swarm: Swarm, node: Node) -> str:
    """The peer ID of a node, once the gateway can use it."""
    peer = node.ready()[1]
    swarm.wait_for(lambda: shown(swarm, peer).get("room_tokens"))
    return peer


def shown(swarm: Swarm, peer: str) -> dict[str, Any]:
    """What the gateway shows of a peer."""
    return next((each for each in swarm.peers() if each["peer"] == peer), {})


def until_draining(swarm: Swarm, peer: str) -> None:
    swarm.wait_for(lambda: shown(swarm, peer)["state"] == "draining", 2)


def begun(url: str, max_tokens: int) -> Stream:
    """An answer of which some tokens have come."""
    stream = Stream(url, **ASKED, max_tokens=max_tokens)
    stream.until(5)
    return stream


def signal_all(node: Node) -> None:
    """SIGTERM for each of its processes, as some service managers do; for the libp2p process first."""
    process = psutil.Process(node.process.pid)
    for each in [*process.children(recursive=True), process]:
        each.send_signal(signal.SIGTERM)


def refusal(url: str) -> tuple[int, str]:
    """Status and code with which a new request is refused."""
    response = httpx.post(f"{url}/v1/chat/completions", json=ASKED)
    assert int(response.headers["retry-after"]) > 0
    return response.status_code, response.json()["error"]["code"]


@pytest.mark.slow
def test_a_peer_without_sessions_ends_at_once_with_a_goodbye(swarm: Swarm):
    node = swarm.add_peer("2:4")
    peer = usable(swarm, node)
    began = time.monotonic()
    assert node.stop() == 0
    assert time.monotonic() - began < 3
    swarm.wait_for(lambda: not shown(swarm, peer), 1)
    assert not any("leaving" in line for line in node.errors)


@pytest.mark.slow
def test_a_peer_that_still_looks_for_its_swarm_ends_at_once(swarm: Swarm):
    node = swarm.add_peer("2:4", "--join", "http://127.0.0.1:9")
    swarm.wait_for(lambda: any("where to join" in line for line in node.errors))
    assert node.stop(timeout_s=AT_ONCE_S) == 0


@pytest.mark.slow
def test_a_session_that_no_other_peer_can_take_is_finished(swarm: Swarm):
    node = swarm.add_peer("2:4")
    peer = usable(swarm, node)
    stream = begun(swarm.url, max_tokens=1000)
    signal_all(node)
    until_draining(swarm, peer)
    assert refusal(swarm.url) == (503, "no_route")
    assert node.process.poll() is None
    stream.finish()
    assert (stream.error, len(stream.ids)) == (None, 1000)
    assert node.wait(AT_ONCE_S) == 0
    assert any("leaving: 1 sessions" in line for line in node.errors)
    assert not any("libp2p" in line for line in node.errors)


@pytest.mark.slow
def test_a_session_moves_to_a_spare_while_it_goes_on(swarm: Swarm):
    nodes = [swarm.add_peer("2:4"), swarm.add_peer("2:4")]
    node_of = {usable(swarm, node): node for node in nodes}
    stream = begun(swarm.url, max_tokens=2000)
    (busy,) = (peer for peer in node_of if shown(swarm, peer)["sessions"])
    (spare,) = node_of.keys() - {busy}
    assert node_of[busy].stop(timeout_s=AT_ONCE_S) == 0
    assert shown(swarm, spare)["sessions"] == 1
    stream.finish()
    assert (stream.error, len(stream.ids)) == (None, 2000)
    assert not any("are ended" in line for line in node_of[busy].errors)


@pytest.mark.slow
def test_a_session_moves_to_a_spare_that_comes_later(swarm: Swarm):
    node = swarm.add_peer("2:4")
    peer = usable(swarm, node)
    stream = begun(swarm.url, max_tokens=8000)
    node.process.send_signal(signal.SIGTERM)
    until_draining(swarm, peer)
    spare = usable(swarm, swarm.add_peer("2:4"))
    assert node.wait(AT_ONCE_S) == 0
    assert shown(swarm, spare)["sessions"] == 1
    stream.until(len(stream.ids) + 10)


@pytest.mark.slow
def test_a_second_signal_ends_a_peer_at_once(swarm: Swarm):
    node = swarm.add_peer("2:4")
    peer = usable(swarm, node)
    begun(swarm.url, max_tokens=8000)
    node.process.send_signal(signal.SIGTERM)
    until_draining(swarm, peer)
    assert node.stop(signal.SIGINT, timeout_s=AT_ONCE_S) == 0


@pytest.mark.slow
def test_a_peer_waits_no_longer_than_it_is_told(swarm: Swarm):
    node = swarm.add_peer("2:4", "--drain-seconds", "0.5")
    usable(swarm, node)
    begun(swarm.url, max_tokens=8000)
    assert node.stop(timeout_s=AT_ONCE_S) == 0
    assert any("still here after 0.5 s" in line for line in node.errors)


def until_leaving(swarm: Swarm, url: str) -> None:
    swarm.wait_for(lambda: httpx.get(f"{url}/health").json()["status"] == "leaving", 2)


@pytest.mark.slow
def test_a_gateway_finishes_its_streams_and_takes_no_new_requests(swarm: Swarm, gateway: tuple[Node, str]):
    node, url = gateway
    stream = begun(url, max_tokens=1000)
    with httpx.stream("GET", f"{url}/swarm/events"):
        signal_all(node)
        until_leaving(swarm, url)
        assert refusal(url) == (503, "shutting_down")
        stream.finish()
        assert (stream.error, len(stream.ids)) == (None, 1000)
        assert node.wait(AT_ONCE_S) == 0


@pytest.mark.slow
def test_a_second_signal_ends_a_gateways_streams(swarm: Swarm, gateway: tuple[Node, str]):
    node, url = gateway
    stream = begun(url, max_tokens=8000)
    node.process.send_signal(signal.SIGTERM)
    until_leaving(swarm, url)
    assert node.stop(timeout_s=AT_ONCE_S) == 0
    stream.finish()
    assert stream.error
    assert stream.error["code"] == "shutting_down"
