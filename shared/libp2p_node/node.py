"""One node of the control plane: what is heard is checked, kept in the table, reported and passed on."""

from __future__ import annotations

import logging
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import trio

from shared.announcement import Announcement, unseal
from shared.errors import ProtocolError
from shared.libp2p_node.conduct import Conduct
from shared.libp2p_node.containment import contain_library
from shared.libp2p_node.gossip import Gossip
from shared.libp2p_node.host import listening, make_host
from shared.libp2p_node.messages import Announce, Command, Failed, Heard, Join, Learn, Message, Refused, Start, Started
from shared.libp2p_node.messages import Neighbours as NeighbourCount
from shared.libp2p_node.neighbours import Neighbours
from shared.libp2p_node.table_exchange import Known, TableServer, ask
from shared.table import MEMORY_CAPACITY, Table
from shared.types import PeerId

logger = logging.getLogger(__name__)

ASK_LIMIT = 3
"""Neighbours whose table is asked for, after being alone."""
EXPIRE_S = 0.5
REFUSED_S = 1.0
REPUBLISH_S = 1.0
"""New neighbours within this time hear of this node by one message."""


class Node:
    """Runs until told to stop; `report` takes what the program should know."""

    def __init__(self, start: Start, report: Callable[[Message], None]) -> None:
        contain_library()
        self._start = start
        self._report = report
        self._table = Table(start.swarm)
        self._host, self._network = make_host(start.seed)
        self._me = PeerId(self._host.get_id().to_string())
        self._own: bytes | None = None
        self._passed_on: dict[PeerId, int] = {}  # the sequence number last passed on; longest ago first
        self._to_ask = ASK_LIMIT
        self._gained = trio.Event()
        self._conduct = Conduct(time.monotonic)
        self._gossip = Gossip(self._host, start.swarm, self._judge, self._conduct.admits)
        self._neighbours = Neighbours(self._host, self._network, self._gossip, self._table, self._neighbours_changed)
        TableServer(self._host, start.swarm, self._known)

    async def run(self, commands: AsyncIterator[Command]) -> None:
        """Listen, and obey until the commands end. Without a free port it ends at once, and says so."""
        async with listening(self._network, self._start.listen, self._start.ports) as port:
            if port is None:
                self._report(Failed("port"))
                return
            async with self._gossip.running(), self._tasks():
                self._report(Started(port))
                async for command in commands:
                    await self._obey(command)
                await self._gossip.flush()

    @asynccontextmanager
    async def _tasks(self) -> AsyncIterator[None]:
        async with trio.open_nursery() as self._nursery:
            for task in (self._neighbours.watch, self._neighbours.fill):
                self._nursery.start_soon(task)
            for task in (self._expire, self._republish, self._tell_refused):
                self._nursery.start_soon(task)
            yield
            self._nursery.cancel_scope.cancel()

    async def _obey(self, command: Command) -> None:
        match command:
            case Join():
                for address in command.addresses:
                    self._neighbours.join(address, self._nursery)
            case Learn():
                self._keep(command.record, command.age_s)
            case Announce():
                self._own = command.record
                self._keep(command.record)
                await self._gossip.publish(command.record)
            case _:
                raise AssertionError(f"{command} is not expected here")

    def _keep(self, record: bytes, age_s: float = 0.0) -> None:
        """What the program knows goes into the table for others."""
        try:
            self._table.accept(record, unseal(record, time.time()), trio.current_time(), age_s)
        except ProtocolError as error:
            logger.warning("a record of the program's is not passed on: %s", error)

    def _judge(self, record: bytes, source: PeerId) -> bool:
        """A record from gossip is passed on once, be it that a neighbour's table told of it before."""
        announcement = self._take(record, source)
        if not announcement:
            return False
        peer, sequence = announcement.peer, announcement.sequence
        if sequence < self._table.sequence(peer) or sequence <= self._passed_on.get(peer, -1):
            return False
        self._passed_on.pop(peer, None)
        if len(self._passed_on) >= MEMORY_CAPACITY:
            del self._passed_on[next(iter(self._passed_on))]
        self._passed_on[peer] = sequence
        return peer != self._me

    def _take(self, record: bytes, source: PeerId, age_s: float = 0.0) -> Announcement | None:
        """Check a record and keep it; the program hears of news. None for what is refused."""
        try:
            announcement = unseal(record, time.time())
            if announcement.peer == self._me:
                return announcement
            return announcement if self._keep_news(record, announcement, source, age_s) else None
        except ProtocolError as error:
            self._conduct.refused(source, record, error)
            return None

    def _keep_news(self, record: bytes, announcement: Announcement, source: PeerId, age_s: float) -> bool:
        """False for news of a node that is not heard. Raises VersionMismatch."""
        known = self._table.sequence(announcement.peer)
        if announcement.sequence > known:
            if not self._conduct.hears(announcement.peer):
                return False
            self._table.accept(record, announcement, trio.current_time(), age_s, source)
            if self._table.sequence(announcement.peer) > known:
                self._report(Heard(record, age_s, source))
        return True

    def _known(self) -> Known:
        return self._table.records(trio.current_time())

    def _neighbours_changed(self, now: set[PeerId], gained: set[PeerId]) -> None:
        if now == gained:  # there were none
            self._to_ask = ASK_LIMIT
        for peer in sorted(gained)[: self._to_ask]:
            self._to_ask -= 1
            self._nursery.start_soon(self._ask, peer)
        if gained:
            self._gained.set()
        self._report(NeighbourCount(len(now)))

    async def _ask(self, peer: PeerId) -> None:
        try:
            async for record, age_s in ask(self._host, self._start.swarm, peer):
                self._take(record, peer, age_s)
        except Exception as error:  # noqa: BLE001 - a neighbour that is not what it should be, or is gone
            logger.debug("the table of %s could not be had: %r", peer, error)

    async def _republish(self) -> None:
        """New neighbours, and those behind them, hear of this node at once."""
        while True:
            await self._gained.wait()
            self._gained = trio.Event()
            if self._own:
                await self._gossip.publish(self._own)
            await trio.sleep(REPUBLISH_S)

    async def _expire(self) -> None:
        """A neighbour that has been silent for so long is not connected any more, whatever TCP believes."""
        while True:
            for left in self._table.expire(trio.current_time()):
                if left.announcement.peer in self._gossip.neighbours():
                    self._nursery.start_soon(self._neighbours.disconnect, left.announcement.peer)
            await trio.sleep(EXPIRE_S)

    async def _tell_refused(self) -> None:
        """The program counts what was refused here."""
        while True:
            await trio.sleep(REFUSED_S)
            if refused := self._conduct.news():
                self._report(Refused(refused))
