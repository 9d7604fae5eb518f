"""Networks with real libp2p processes on loopback."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest

import shared.network
from shared.announcement import Announcement
from shared.errors import CorollaError, UsageError
from shared.identity import Identity
from shared.network import Network
from shared.table import Change, Joined, Left, Updated
from tests.shared.announcements import PEER, Settings

ROOT = Path(__file__).parents[2]
SOON_S = 20.0
GATEWAY: dict[str, Any] = {"kind": "gateway", "name": "gate"}
GARBAGE = b"GET / HTTP/1.1\r\n\r\n", b"\x13/multistream/1.0.0\n" + os.urandom(2000), os.urandom(70_000), b""


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return probe.getsockname()[1]


class Nodes:
    """Starts networks in this process, each with its libp2p process, and stops those that still run at the end."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.running: list[Network] = []

    async def start(self, *join: str, **options: Any) -> Network:
        """A node that joins there; options are fields of Settings, `identity`, `port` and `period_s`."""
        identity = options.pop("identity", None) or Identity.create()
        period_s, port = options.pop("period_s", 10.0), options.pop("port", None) or free_port()
        settings = Settings(self._folder / str(identity.peer), join=join, **options)
        network = Network(identity, settings, default_port=port, data_port=7, period_s=period_s)
        await network.start()
        self.running.append(network)
        return network

    async def stop(self, network: Network) -> None:
        self.running.remove(network)
        await network.stop()


@pytest.fixture
async def nodes(tmp_path: Path) -> AsyncIterator[Nodes]:
    nodes = Nodes(tmp_path)
    yield nodes
    await asyncio.gather(*(network.stop() for network in nodes.running))


async def change(network: Network, wanted: Callable[[Change], bool], within_s: float = SOON_S) -> Change:
    """The first change of the network's table, from what is there now on, that is wanted."""
    async with asyncio.timeout(within_s):
        async for each in network.changes():
            if wanted(each):
                return each
    raise AssertionError


async def sees(network: Network, name: str, within_s: float = SOON_S, **fields: Any) -> Announcement:
    """Wait until the network knows of a live node with this name, and these fields."""
    found = await change(
        network,
        lambda each: (
            not isinstance(each, Left)
            and each.announcement.name == name
            and all(getattr(each.announcement, field) == value for field, value in fields.items())
        ),
        within_s,
    )
    return found.announcement


async def misses(network: Network, name: str, within_s: float) -> Left:
    """Wait until a node with this name, which is there now, has left the network's table."""
    assert name in names(network)
    left = await change(network, lambda each: isinstance(each, Left) and each.announcement.name == name, within_s)
    assert isinstance(left, Left)
    assert name not in names(network)
    return left


def names(network: Network) -> set[str]:
    return {each.name for each in network.table}


def until_connected(one: Network, two: Network) -> None:
    """Wait until one of the two has dialled the other, so that neither is alone when everybody else goes."""
    deadline = time.monotonic() + SOON_S
    while not (has_dialled(one, two) or has_dialled(two, one)):
        assert time.monotonic() < deadline
        time.sleep(0.1)


def has_dialled(network: Network, other: Network) -> bool:
    port = int(other.addresses[0].split("/")[4])
    return any(each.raddr and each.raddr.port == port for each in psutil.Process(network.process_id).net_connections())


@asynccontextmanager
async def program(*command: object) -> AsyncIterator[asyncio.subprocess.Process]:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *(str(word) for word in command),
        stdout=asyncio.subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def stranger(network: Network, what: str, within_s: float = 60.0) -> None:
    """Let a stranger do this to the network's node, and wait until it has."""
    async with program(ROOT / "tests/shared/stranger.py", network.addresses[0], "test", what) as process:
        async with asyncio.timeout(within_s):
            assert process.stdout
            assert await process.stdout.read() == b"done\n"


@pytest.mark.parametrize("first", ["bootstrap", "joiner"])
async def test_nodes_see_each_other_whoever_starts_first(nodes: Nodes, first: str) -> None:
    identity, port = Identity.create(), free_port()
    address = f"/ip4/127.0.0.1/tcp/{port}/p2p/{identity.peer}"
    if first == "bootstrap":
        gate = await nodes.start(identity=identity, port=port)
        peer = await nodes.start(address)
    else:
        peer = await nodes.start(address)
        assert not await peer.joined(0.5)
        gate = await nodes.start(identity=identity, port=port)
    assert gate.addresses == (address,)
    await gate.announce(**GATEWAY)
    await peer.announce(**PEER)
    assert await peer.joined(SOON_S)
    said = await sees(gate, PEER["name"])
    assert all(getattr(said, field) == value for field, value in PEER.items())
    assert said.addresses == (peer.addresses[0].partition("/p2p/")[0], "/ip4/127.0.0.1/tcp/7/tls")
    await sees(peer, "gate")


@pytest.mark.slow
async def test_news_are_visible_at_once_and_changes_soon(nodes: Nodes) -> None:
    gate = await nodes.start()
    peer = await nodes.start(*gate.addresses)
    assert await peer.joined(SOON_S)
    await peer.announce(**PEER, state="joining")
    await sees(gate, PEER["name"], within_s=1, state="joining")
    await peer.announce(state="online")
    await sees(gate, PEER["name"], within_s=1, state="online")
    await peer.announce(tokens_per_s=1.5)
    await peer.announce(cache_tokens=17)  # both in one, two seconds after the last
    assert (await sees(gate, PEER["name"], within_s=4, cache_tokens=17)).tokens_per_s == 1.5
    await peer.announce(state="draining")
    await sees(gate, PEER["name"], within_s=4, state="draining")
    await peer.announce(cache_tokens=18)
    await sees(gate, PEER["name"], within_s=4, state="draining", cache_tokens=18)


async def test_a_late_joiner_learns_of_all_that_its_neighbour_knows(nodes: Nodes) -> None:
    gate = await nodes.start()
    peers = await asyncio.gather(*(nodes.start(*gate.addresses, period_s=100.0) for _ in range(3)))
    for index, peer in enumerate(peers):
        await peer.announce(**{**PEER, "name": f"peer {index}"})
        await sees(gate, f"peer {index}")
    late = await nodes.start(*gate.addresses)
    await asyncio.gather(*(sees(late, f"peer {index}", within_s=5) for index in range(3)))


async def test_who_says_goodbye_is_gone_within_a_second(nodes: Nodes) -> None:
    gate = await nodes.start()
    peer, other = await asyncio.gather(nodes.start(*gate.addresses), nodes.start(*gate.addresses))
    await peer.announce(**PEER)
    await asyncio.gather(sees(gate, PEER["name"]), sees(other, PEER["name"]))
    leaving = [misses(gate, PEER["name"], within_s=1), misses(other, PEER["name"], within_s=1)]
    async with asyncio.TaskGroup() as tasks:
        left = [tasks.create_task(each) for each in leaving]
        tasks.create_task(nodes.stop(peer))
    assert [each.result().reason for each in left] == ["said goodbye"] * 2


async def test_a_dropped_peer_is_gone_until_it_announces_itself_anew(nodes: Nodes) -> None:
    gate = await nodes.start()
    peer = await nodes.start(*gate.addresses, period_s=1.5)
    await peer.announce(**PEER)
    sequence = (await sees(gate, PEER["name"])).sequence
    peer_id = gate.table.get(next(iter(gate.table)).peer)
    assert peer_id
    gate.drop(peer_id.peer)
    assert not names(gate)
    assert (await sees(gate, PEER["name"], within_s=5)).sequence > sequence


async def test_the_swarm_outlives_the_node_it_was_joined_through(nodes: Nodes) -> None:
    gate = await nodes.start()
    one, two = await asyncio.gather(nodes.start(*gate.addresses), nodes.start(*gate.addresses))
    await one.announce(**PEER)
    await two.announce(**GATEWAY)
    await asyncio.gather(sees(one, "gate"), sees(two, PEER["name"]))
    await nodes.stop(gate)
    await one.announce(cache_tokens=18)
    await sees(two, PEER["name"], cache_tokens=18)


async def test_a_bootstrap_node_that_comes_back_knowing_nobody_is_joined_again(nodes: Nodes) -> None:
    """Nobody is alone meanwhile, and the new node has nobody to join."""
    identity, port = Identity.create(), free_port()
    gate = await nodes.start(identity=identity, port=port)
    one, two = await asyncio.gather(nodes.start(*gate.addresses), nodes.start(*gate.addresses))
    await one.announce(**PEER)
    await two.announce(**{**PEER, "name": "two"})
    await asyncio.to_thread(until_connected, one, two)
    await nodes.stop(gate)
    again = await nodes.start(identity=identity, port=port)
    await again.announce(**GATEWAY)
    await asyncio.gather(sees(again, PEER["name"]), sees(again, "two"), sees(one, "gate"), sees(two, "gate"))


async def test_a_gateway_that_comes_back_as_another_node_is_found_by_its_url(
    nodes: Nodes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shared.network, "LOOK_UP_AGAIN_S", 0.5)
    now = [await nodes.start()]

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        body = b'{"join": ["%s"]}' % now[-1].addresses[0].encode()
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        one, two = await asyncio.gather(nodes.start(url), nodes.start(url))
        await one.announce(**PEER)
        await two.announce(**{**PEER, "name": "two"})
        await asyncio.to_thread(until_connected, one, two)
        await nodes.stop(now[0])
        now.append(await nodes.start())
        await sees(now[-1], PEER["name"])


async def test_a_libp2p_process_that_is_killed_comes_back(nodes: Nodes) -> None:
    gate = await nodes.start()
    peer = await nodes.start(*gate.addresses)
    await gate.announce(**GATEWAY)
    await peer.announce(**PEER)
    await asyncio.gather(sees(gate, PEER["name"]), sees(peer, "gate"))
    for node in (gate, peer):
        killed = node.process_id
        assert killed
        os.kill(killed, signal.SIGKILL)
        await asyncio.to_thread(psutil.wait_procs, [psutil.Process(killed)], 0)
    assert names(gate) == {PEER["name"]}  # what was known is known
    await peer.announce(cache_tokens=19)
    await sees(gate, PEER["name"], cache_tokens=19)
    assert await peer.joined(SOON_S)


async def test_a_killed_program_takes_its_process_along_and_expires(nodes: Nodes, tmp_path: Path) -> None:
    gate = await nodes.start()
    command = (ROOT / "tests/shared/node_process.py", "test", free_port(), tmp_path / "victim", *gate.addresses)
    async with program(*command) as victim:
        assert victim.stdout
        child = psutil.Process(int(await asyncio.wait_for(victim.stdout.readline(), SOON_S)))
        await sees(gate, "victim")
        victim.kill()
        await asyncio.to_thread(child.wait, 3)
    left = await misses(gate, "victim", within_s=5)
    assert left.reason == "was not heard of any more"


async def test_another_swarm_is_not_seen_and_does_no_harm(nodes: Nodes) -> None:
    gate = await nodes.start()
    await gate.announce(**GATEWAY)
    foreign = await nodes.start(*gate.addresses, swarm="other")
    await foreign.announce(**{**PEER, "name": "foreign"})
    peer = await nodes.start(*gate.addresses)
    await peer.announce(**PEER)
    await asyncio.gather(sees(gate, PEER["name"]), sees(peer, "gate"))
    assert not await foreign.joined(1)
    assert (names(gate), names(foreign)) == ({PEER["name"]}, set())


@pytest.mark.parametrize("what", ["garbage", "below", "crowd"])
async def test_a_node_survives_what_a_stranger_sends(nodes: Nodes, what: str) -> None:
    gate = await nodes.start()
    process_id = gate.process_id
    await stranger(gate, what)
    peer = await nodes.start(*gate.addresses)
    await peer.announce(**PEER)
    await sees(gate, PEER["name"])
    assert gate.process_id == process_id


async def test_a_node_survives_garbage_on_its_port(nodes: Nodes) -> None:
    gate = await nodes.start()
    process_id = gate.process_id
    port = int(gate.addresses[0].split("/")[4])
    silent = [await asyncio.open_connection("127.0.0.1", port) for _ in range(20)]
    for garbage in GARBAGE * 5:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(garbage)
        writer.close()
    peer = await nodes.start(*gate.addresses)
    await peer.announce(**PEER)
    await sees(gate, PEER["name"])
    assert gate.process_id == process_id
    for _, writer in silent:
        writer.close()


@pytest.mark.slow
async def test_forged_stale_and_broken_gossip_is_neither_believed_nor_fatal(nodes: Nodes) -> None:
    gate = await nodes.start()
    process_id, heard = gate.process_id, set[str]()

    def last(change: Change) -> bool:
        heard.add(change.announcement.name)
        return change.announcement.name == "last"

    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(stranger(gate, "gossip"))
        told = tasks.create_task(change(gate, last, 30))
    assert isinstance(told.result(), Joined | Updated)
    assert heard <= {"stranger", "last"}
    assert gate.refusals.counted["announcement"] == 3  # two that are nobody's fault, and one for which it is shunned
    assert gate.process_id == process_id


async def test_a_swarm_is_found_by_a_gateways_url(nodes: Nodes) -> None:
    gate = await nodes.start()
    await gate.announce(**GATEWAY)
    answers = [b"not json", b'{"join": "x"}', b'{"join": []}', b'{"join": ["/ip4/1.2.3.4/tcp/5"]}']
    asked: list[bytes] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.append((await reader.readuntil(b"\r\n\r\n")).split(b"\r\n")[0])
        body = answers.pop(0) if answers else b'{"join": ["%s"], "peers": []}' % gate.addresses[0].encode()
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        peer = await nodes.start(f"http://127.0.0.1:{port}/v1")
        await sees(peer, "gate")
    assert asked == [b"GET /health HTTP/1.1"] * 5


async def test_a_port_that_is_taken_is_an_error_if_asked_for_and_skipped_else(nodes: Nodes) -> None:
    gate = await nodes.start()
    port = int(gate.addresses[0].split("/")[4])
    with pytest.raises(UsageError, match=f"{port}.*--p2p-port"):
        await nodes.start(p2p_port=port)
    beside = await nodes.start(port=port)
    assert int(beside.addresses[0].split("/")[4]) > port


@pytest.mark.parametrize("join", ["somewhere", "/ip4/1.2.3.4/tcp/5", "http://", "http://[1]"])
def test_a_join_that_makes_no_sense_is_an_error_at_once(tmp_path: Path, join: str) -> None:
    with pytest.raises(UsageError, match="--join"):
        Network(Identity.create(), Settings(tmp_path, join=(join,)), default_port=1)


async def test_what_cannot_be_announced_is_an_error(nodes: Nodes) -> None:
    network = await nodes.start()
    with pytest.raises(CorollaError, match="name"):
        await network.announce(**{**PEER, "name": "x" * 65})


async def test_the_sequence_goes_on_where_it_was_stored(nodes: Nodes, tmp_path: Path) -> None:
    identity, gate = Identity.create(), await nodes.start()
    stored = tmp_path / str(identity.peer) / "sequence"
    stored.parent.mkdir()
    ahead = 2 * time.time_ns() // 1000  # as if the clock had been wrong
    stored.write_text(str(ahead))
    peer = await nodes.start(*gate.addresses, identity=identity)
    await peer.announce(**PEER)
    assert (await sees(gate, PEER["name"])).sequence == ahead + 1
    assert stored.read_text() == str(ahead + 1)
