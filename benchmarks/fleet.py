"""A swarm with several copies of each range of blocks; its peers can be killed, frozen, and started again."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from itertools import pairwise, product
from pathlib import Path

import httpx
import psutil

from benchmarks.client import Endpoint, EndpointFailed
from benchmarks.hosts import Host, Hosts
from shared.checkpoint import Checkpoint
from shared.types import BlockRange, PeerId
from tests.swarm import PROGRAMS, Node, free_port

CACHE_TOKENS = "65536"  # several peers on one machine do not see each other's cache
LOOK_S = 0.25
SETTLED_S = 1.0  # what the gateway shows of a peer may be from before its fault
LINKED_S = 60.0
READY_S = 180.0  # many start at once, and others run beside them
LEAVING_S = 75.0  # a peer's own limit is 60


@dataclass(frozen=True, slots=True)
class Shape:
    """How many copies of how many equal ranges, and what all programs are told."""

    ranges: int
    copies: int
    threads: int = 1
    gateway_flags: tuple[str, ...] = ()


class Place:
    """Where one peer with a copy of a range runs. Its processes come and go: of `nodes` the last is there now."""

    def __init__(self, name: str, blocks: BlockRange, host: Host, words: Sequence[str], state: Path) -> None:
        self.name = name
        self.blocks = blocks
        self.host = host
        self.nodes: list[Node] = []
        self.peer: PeerId | None = None
        self.faulty = False
        """Something has been done to it, and the gateway has not used it again since."""
        self.undone = 0.0
        self._words = words
        self._state = state
        self._identity = 0

    @property
    def node(self) -> Node:
        return self.nodes[-1]

    async def start(self, *, as_new: bool = False) -> None:
        """A peer, ready; `as_new` with an identity of its own, else that of the one before. Raises EndpointFailed."""
        self._identity += as_new
        words = [*self._words, "--state-dir", str(self._state / f"{self.name} {self._identity}".replace(":", "-"))]
        self.nodes.append(Node(*self.host.before, PROGRAMS / "peer", "start", *words))
        self.peer = PeerId((await _ready(self.node))[1])

    async def kill(self) -> None:
        """Its end takes a moment, which the event loop does not wait for."""
        self.node.process.kill()
        await asyncio.to_thread(self.node.process.wait)

    def freeze(self) -> None:
        self._signal_all(signal.SIGSTOP)

    def thaw(self) -> None:
        self._signal_all(signal.SIGCONT)

    async def leave(self) -> None:
        """Asked to end, and ended. Raises EndpointFailed."""
        self.node.process.terminate()
        await self._ended("when it was asked to leave")

    async def end(self) -> None:
        """Asked to end, and told to. Raises EndpointFailed."""
        for _ in range(2):
            self.node.process.terminate()
            await asyncio.sleep(0.1)  # or the two signals are one
        await self._ended("when it was told to end")

    async def _ended(self, when: str) -> None:
        try:
            status = await asyncio.to_thread(self.node.process.wait, LEAVING_S)
        except subprocess.TimeoutExpired as error:
            raise EndpointFailed(f"{self.name} did not end {when}") from error
        if status != 0:
            raise EndpointFailed(f"{self.name} ended with status {status} {when}")

    def _signal_all(self, number: signal.Signals) -> None:
        """A host that stops, stops with all that runs on it: the peer's libp2p process too."""
        try:
            process = psutil.Process(self.node.process.pid)
            for each in (process, *process.children(recursive=True)):
                each.send_signal(number)
        except psutil.NoSuchProcess:  # it has ended by itself, which its end shows
            return


class Fleet:
    """A gateway, and `places` with all copies of all ranges."""

    def __init__(self, gateway: Node, places: list[Place], endpoint: Endpoint, hosts: Hosts) -> None:
        self.gateway = gateway
        self.places = places
        self.endpoint = endpoint
        self.hosts = hosts
        self._linked: dict[str, float] = {}

    @property
    def blocks(self) -> list[BlockRange]:
        """What each place holds."""
        return [place.blocks for place in self.places]

    def sound(self) -> set[int]:
        """Places where nothing is wrong, and which the gateway can use, going by its last answer."""
        return {number for number, place in enumerate(self.places) if not place.faulty and self._is_linked(place)}

    def _is_linked(self, place: Place) -> bool:
        return self._linked.get(place.peer or "", 0.0) > place.undone + SETTLED_S

    async def look(self) -> None:
        """Ask the gateway which peers it can use. Raises EndpointFailed when it does not answer."""
        try:
            response = await self.endpoint.http.get("/swarm")
        except httpx.TransportError as error:
            raise EndpointFailed(f"the gateway does not answer: {error!r}") from error
        usable = [each for each in response.json()["peers"] if each["state"] == "online"]
        now = time.perf_counter()
        self._linked = {each["peer"]: now for each in usable if each["room_tokens"] is not None}

    async def until_back(self, places: Sequence[Place]) -> None:
        """What was done to these places has just been undone: until the gateway uses them again.

        Raises EndpointFailed when that takes longer than a minute.
        """
        now = time.perf_counter()
        for place in places:
            place.undone = now
        while missing := [place.name for place in places if not self._is_linked(place)]:
            if time.perf_counter() > now + LINKED_S:
                raise EndpointFailed(f"a minute after its fault the gateway does not use {', '.join(missing)}")
            await asyncio.sleep(LOOK_S)
            await self.look()
        for place in places:
            place.faulty = False

    async def until_idle(self) -> None:
        """Until no place holds a session. Raises EndpointFailed when it takes longer than a minute."""
        deadline = time.perf_counter() + LINKED_S
        while held := await self.serving():
            if time.perf_counter() > deadline:
                raise EndpointFailed(f"a minute after the last stream {held[0].name} still holds a session")
            await asyncio.sleep(LOOK_S)

    async def serving(self) -> list[Place]:
        """The places that hold sessions, in the order of their blocks."""
        peers = (await self.endpoint.http.get("/swarm")).json()["peers"]
        busy = {each["peer"] for each in peers if each["sessions"]}
        return sorted((place for place in self.places if place.peer in busy), key=lambda place: place.blocks)

    def write_logs(self, folder: Path) -> None:
        """Every process's log, into files of their own."""
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "gateway.log").write_text("\n".join(self.gateway.errors))
        for place in self.places:
            name = place.name.replace(":", "-").replace(" ", "")
            for number, node in enumerate(place.nodes):
                (folder / f"peer-{name}-{number}.log").write_text("\n".join(node.errors))

    def close(self) -> None:
        for node in (self.gateway, *(place.node for place in self.places if place.nodes)):
            if node.process.poll() is None:
                node.kill()


@asynccontextmanager
async def running_fleet(checkpoint: Checkpoint, shape: Shape, hosts: Hosts, folder: Path) -> AsyncIterator[Fleet]:
    """All started and linked; `checkpoint` is complete on this machine. Raises EndpointFailed."""
    swarm = ["--swarm", f"fleet-{os.urandom(4).hex()}", "--threads", str(shape.threads), "--device", "cpu"]
    common = [*swarm, "--cache-dir", str(folder / "cache")]
    model = ["--model", str(checkpoint.directory), "--model-name", checkpoint.id]
    gateway, url = await _start_gateway([*model, *common, *shape.gateway_flags], hosts.of(0), folder / "gateway")
    peer_words = [*model, *common, "--join", url, "--cache-tokens", CACHE_TOKENS]
    places = [
        _place(number, blocks, copy, hosts.of(number + 1), peer_words, folder)
        for number, (copy, blocks) in enumerate(product(range(shape.copies), _equal(checkpoint.blocks, shape.ranges)))
    ]
    async with Endpoint(url) as endpoint:
        fleet = Fleet(gateway, places, endpoint, hosts)
        try:
            await asyncio.gather(*(place.start() for place in places))
            await _ready(gateway)
            await endpoint.choose(checkpoint.id)
            await fleet.until_back(places)
            yield fleet
        finally:
            fleet.close()


def _equal(blocks: int, parts: int) -> list[BlockRange]:
    borders = [blocks * part // parts for part in range(parts + 1)]
    return [BlockRange(*ends) for ends in pairwise(borders)]


def _place(number: int, blocks: BlockRange, copy: int, host: Host, words: Sequence[str], folder: Path) -> Place:
    name = f"{blocks} {'abcdefghij'[copy]}"
    own = ["--blocks", str(blocks), "--listen", host.address, "--name", f"place-{number}"]
    return Place(name, blocks, host, [*words, *own], folder)


async def _start_gateway(words: list[str], host: Host, state: Path) -> tuple[Node, str]:
    """A gateway that answers at the URL."""
    port, p2p_port = free_port(), free_port()
    listening = ["--host", host.address, "--port", str(port), "--listen", host.address, "--p2p-port", str(p2p_port)]
    listening.append("--no-require-keys")  # not every host is loopback
    node = Node(*host.before, PROGRAMS / "gateway", "start", *words, *listening, "--state-dir", str(state))
    return node, f"http://{host.address}:{port}"


async def _ready(node: Node) -> list[str]:
    """The words of a node's `ready` line. Raises EndpointFailed with the end of its log."""
    try:
        return await asyncio.to_thread(node.ready, READY_S)
    except AssertionError as error:
        raise EndpointFailed(f"a node did not get ready: {str(error)[-2000:]}") from error
