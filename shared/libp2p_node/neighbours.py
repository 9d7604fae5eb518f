"""Whom this node is connected to: bootstrap addresses while it is alone or they are, and nodes that the table knows."""

from __future__ import annotations

import logging
import random
from collections.abc import Callable

import trio
from libp2p.abc import IHost
from libp2p.network.swarm import Swarm
from libp2p.peer.id import ID
from libp2p.peer.peerinfo import PeerInfo
from multiaddr import Multiaddr

from shared.addresses import Address, control_addresses
from shared.libp2p_node.gossip import Gossip
from shared.libp2p_node.host import DIAL_S
from shared.table import Table
from shared.types import PeerId

logger = logging.getLogger(__name__)

WANTED = 6
"""Below this many, nodes from the table are dialled; others may dial this node beyond it."""
BOOTSTRAPS_LIMIT = 64
WATCH_S = 0.1
FILL_S = 1.0
SUBSCRIBE_S = 5.0
FIRST_RETRY_S = 0.2
LAST_RETRY_S = 10.0
DEAD_S = 60.0

OnChange = Callable[[set[PeerId], set[PeerId]], None]


class Neighbours:
    """`on_change(now, gained)` hears of the neighbours whenever some came or went."""

    def __init__(self, host: IHost, network: Swarm, gossip: Gossip, table: Table, on_change: OnChange) -> None:
        self._host = host
        self._network = network
        self._gossip = gossip
        self._table = table
        self._on_change = on_change
        self._me = PeerId(host.get_id().to_string())
        self._now: set[PeerId] = set()
        self._changed = trio.Event()
        self._bootstraps: set[str] = set()
        self._dead_until: dict[PeerId, float] = {}

    async def watch(self) -> None:
        """Notice who comes and goes."""
        while True:
            now = self._gossip.neighbours()
            if now != self._now:
                gained, self._now = now - self._now, now
                self._changed.set()
                self._changed = trio.Event()
                self._on_change(now, gained)
            await trio.sleep(WATCH_S)

    async def fill(self) -> None:
        """Dial nodes that the table knows, so that the swarm outlives the node that it was joined through."""
        while True:
            await trio.sleep(FILL_S * random.uniform(0.75, 1.25))
            candidate = self._candidate() if len(self._now) < WANTED else None
            if candidate and not await self._dial_any(candidate):
                self._dead_until[candidate] = trio.current_time() + DEAD_S

    def join(self, address: str, nursery: trio.Nursery) -> None:
        """Stay connected to the swarm through this multiaddr, which has a `/p2p/`."""
        target = Address.parse(address)
        if address not in self._bootstraps and target.peer != self._me and len(self._bootstraps) < BOOTSTRAPS_LIMIT:
            self._bootstraps.add(address)
            nursery.start_soon(self._keep_joined, target)

    async def disconnect(self, peer: PeerId) -> None:
        """End the connections to a node."""
        with trio.move_on_after(DIAL_S):
            await self._network.close_peer(ID.from_string(peer))

    async def _keep_joined(self, target: Address) -> None:
        assert target.peer
        delay, told = FIRST_RETRY_S, False
        while True:
            await self._until_missed(target.peer)
            if await self._dial(target):
                logger.log(logging.INFO if told else logging.DEBUG, "joined the swarm through %s", target)
                delay, told = FIRST_RETRY_S, False
                continue
            if not told and not self._now:
                logger.warning("%s cannot be joined yet; it is tried again and again", target)
                told = True
            await trio.sleep(delay * random.uniform(0.75, 1.25))
            delay = min(2 * delay, LAST_RETRY_S)

    async def _until_missed(self, bootstrap: PeerId) -> None:
        """Return when this node needs a bootstrap node, or it needs this one: if it starts anew it knows nobody."""
        while self._now and not self._misses(bootstrap):
            with trio.move_on_after(FILL_S):
                await self._changed.wait()

    def _misses(self, bootstrap: PeerId) -> bool:
        """Of many nodes only a few stay connected to a bootstrap node that the swarm still hears."""
        if bootstrap in self._now:
            return False
        return len(self._now) < WANTED or self._table.get(bootstrap) is None

    def _candidate(self) -> PeerId | None:
        now = trio.current_time()
        self._dead_until = {peer: until for peer, until in self._dead_until.items() if until > now}
        unwanted = {self._me, *self._now, *self._dead_until}
        candidates = [each.peer for each in self._table if each.peer not in unwanted]
        return random.choice(candidates) if candidates else None

    async def _dial_any(self, peer: PeerId) -> bool:
        announcement = self._table.get(peer)
        for address in control_addresses(announcement) if announcement else ():
            if await self._dial(address):
                return True
        return False

    async def _dial(self, target: Address) -> bool:
        """True when the node behind the address has become a neighbour."""
        assert target.peer
        if target.peer in self._now:
            return True
        peer = ID.from_string(target.peer)
        try:
            with trio.fail_after(2 * DIAL_S):
                self._network.unblock_peer(peer)  # the library would refuse to dial it for a minute after a failure
                self._host.get_peerstore().clear_addrs(peer)  # it would dial but one of the addresses that it knows
                address = Multiaddr(str(Address(target.host, target.port)))
                await self._host.connect(PeerInfo(peer, [address]))
        except Exception as error:  # noqa: BLE001 - the library lets through whatever went wrong below it
            logger.debug("%s cannot be dialled: %r", target, error)
            return False
        return await self._subscribed(target.peer)

    async def _subscribed(self, peer: PeerId) -> bool:
        with trio.move_on_after(SUBSCRIBE_S):
            while peer not in self._now:
                await self._changed.wait()
            return True
        logger.info("%s does not follow this swarm", peer)
        await self.disconnect(peer)
        return False
