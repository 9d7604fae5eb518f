"""A stranger to the swarm, run as a process of its own: `stranger.py ADDRESS SWARM WHAT`.

It speaks real libp2p with a node, and sends it what no honest node would: garbage on every protocol, garbage below
the protocols, connections by the hundred, forged and stale gossip. It prints `done` when all has been sent.
"""

from __future__ import annotations

import os
import random
import sys
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress

import trio
from libp2p.custom_types import TProtocol
from libp2p.host.basic_host import BasicHost
from libp2p.network.swarm import Swarm
from libp2p.peer.id import ID
from libp2p.peer.peerinfo import PeerInfo
from libp2p.pubsub.pb import rpc_pb2
from libp2p.utils import encode_varint_prefixed
from multiaddr import Multiaddr

from shared.addresses import Address
from shared.announcement import seal
from shared.identity import Identity
from shared.libp2p_node.containment import contain_library, running
from shared.libp2p_node.gossip import Gossip
from shared.libp2p_node.host import make_host
from shared.libp2p_node.table_exchange import ask
from shared.shunned import FIRST_S
from shared.types import PeerId
from tests.shared.announcements import announcement

PATIENCE_S = 20.0
CONNECTIONS = 270
AT_ONCE = 20


class Stranger:
    """A libp2p host with an identity of its own, and the node that it bothers."""

    def __init__(self, address: str, swarm: str) -> None:
        self.identity = Identity.create()
        self.swarm = swarm
        self.target = Address.parse(address)
        self.node = ID.from_string(self.target.peer or "")
        self.host, self.network = make_host(self.identity.seed)

    async def connect(self, host: BasicHost) -> None:
        await host.connect(PeerInfo(self.node, [Multiaddr(str(Address(self.target.host, self.target.port)))]))

    async def send_garbage(self) -> None:
        async with running(self.network):
            await self.connect(self.host)
            connections = self.network.get_connections(self.node)
            offered = [str(each) for each in (await self._protocols())]
            assert {f"/corolla/table/1/{self.swarm}", "/meshsub/1.1.0", "/ipfs/id/1.0.0"} <= set(offered), offered
            for protocol in offered:
                for garbage in pieces_of_garbage():
                    await self._write(protocol, garbage)
            for garbage in pieces_of_garbage():
                await self._write(None, garbage)
            assert [record async for record in ask(self.host, self.swarm, PeerId(self.node.to_string()))] == []
            assert self.network.get_connections(self.node) == connections, "the connection did not survive"

    async def send_garbage_below(self) -> None:
        """To the multiplexer, after an honest handshake."""
        for garbage in pieces_of_garbage():
            await self._on_new_connection(lambda network, garbage=garbage: self._break(network, garbage))

    async def come_and_go(self) -> None:
        """More connections than the node takes, though never many at a time."""
        at_once = trio.CapacityLimiter(AT_ONCE)

        async def one() -> None:
            async with at_once:
                await self._on_new_connection(lambda network: network.close_peer(self.node))

        async with trio.open_nursery() as nursery:
            for _ in range(CONNECTIONS):
                nursery.start_soon(one)

    async def gossip(self) -> None:
        """Forged, stale, foreign, huge and broken messages; then good ones, a stale one between."""
        gossip = Gossip(self.host, self.swarm, lambda record, source: True)
        async with running(self.network), gossip.running():
            await self.connect(self.host)
            await until(lambda: self.target.peer in gossip.neighbours())
            for record in self.bad_records():
                await gossip.publish(record)
                await trio.sleep(0.15)  # the node takes ten a second from one neighbour
            await self._write("/meshsub/1.1.0", broken_messages())
            await gossip.publish(self._record(sequence=3, name="while it is shunned"))
            await trio.sleep(FIRST_S + 1)
            await gossip.publish(self._record(sequence=5))
            await gossip.publish(self._record(sequence=4, name="stale"))
            await gossip.publish(self._record(sequence=6, name="last"))
            await gossip.flush()

    def bad_records(self) -> list[bytes]:
        """First those for which whoever passes them on is not at fault."""
        good = self._record(sequence=1, name="forged")
        foreign = self._record(sequence=2, swarm="elsewhere", name="foreign")
        future = self._record(sequence=2, issued_at=time.time() + 3600, name="future")
        another = seal(announcement(Identity.create(), swarm=self.swarm, name="forged"), self.identity)
        changed = good.replace(b"forged", b"Forged")
        return [foreign, future, changed, another, b"", os.urandom(200), good[:-1], good + bytes(64_000)]

    def _record(self, **fields: object) -> bytes:
        return seal(announcement(self.identity, **{"swarm": self.swarm, "name": "stranger", **fields}), self.identity)

    async def _protocols(self) -> list[str]:
        """What the node says that it serves."""
        peerstore = self.host.get_peerstore()
        await until(lambda: bool(peerstore.get_protocols(self.node)))
        return peerstore.get_protocols(self.node)

    async def _write(self, protocol: str | None, garbage: bytes) -> None:
        with suppress(Exception), trio.move_on_after(1):
            if protocol:
                stream = await self.host.new_stream(self.node, [TProtocol(protocol)])
            else:
                stream = await self.network.new_stream(self.node)
            await stream.write(garbage)
            await (stream.close() if random.random() < 0.5 else stream.reset())

    async def _on_new_connection(self, act: Callable[[Swarm], Awaitable[object]]) -> None:
        host, network = make_host(os.urandom(32))
        async with running(network):
            await self.connect(host)
            await act(network)

    async def _break(self, network: Swarm, garbage: bytes) -> None:
        muxed = network.get_connections(self.node)[0].muxed_conn
        with suppress(Exception), trio.move_on_after(1):
            await muxed.secured_conn.write(garbage)  # type: ignore[attr-defined]


async def until(condition: Callable[[], bool]) -> None:
    with trio.fail_after(PATIENCE_S):
        while not condition():  # noqa: ASYNC110 - what is waited for belongs to the library
            await trio.sleep(0.01)


def pieces_of_garbage() -> list[bytes]:
    """Random bytes, none, lengths that promise too much, lengths that are kept with garbage, a flood."""
    frames = (b"", b"\xff" * 10, b"\xff\xff\xff\x7f", b"\x80", b"\x00" * 64, b"/ipfs/ping/1.0.0\n")
    kept = [encode_varint_prefixed(os.urandom(size)) for size in (1, 20, 1000)]
    counted = [len(data).to_bytes(4, "big") + data for data in (b"\xc1", os.urandom(50), b"\x91" * 250)]
    return [*frames, *kept, *counted, os.urandom(7), os.urandom(3000), os.urandom(300_000)]


def broken_messages() -> bytes:
    """Gossip whose senders, keys and signatures are none: an unguarded validator raises on them."""
    messages = [
        rpc_pb2.Message(from_id=sender, seqno=os.urandom(8), data=b"x", topicIDs=["corolla/1/test"], key=key)
        for sender in (b"", b"\x00", os.urandom(40))
        for key in (b"", os.urandom(30), b"\x08\x01\x12\x01x")
    ]
    for message in messages:
        message.signature = os.urandom(64)
    return encode_varint_prefixed(rpc_pb2.RPC(publish=messages).SerializeToString())


async def main(address: str, swarm: str, what: str) -> None:
    contain_library()
    stranger = Stranger(address, swarm)
    acts = {
        "garbage": stranger.send_garbage,
        "below": stranger.send_garbage_below,
        "crowd": stranger.come_and_go,
        "gossip": stranger.gossip,
    }
    await acts[what]()
    sys.stdout.write("done\n")


if __name__ == "__main__":
    trio.run(main, *sys.argv[1:])
