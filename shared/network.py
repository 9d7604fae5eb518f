"""A node's part in its swarm: it knows who is there, and says that it is. Imports no libp2p."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Coroutine, Iterable
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

from shared.addresses import join_address, listen_host, own_addresses
from shared.announcement import unseal
from shared.announcer import Announcer
from shared.errors import ProtocolError
from shared.gateway_lookup import health_url, is_url, look_up
from shared.identity import Identity
from shared.libp2p_node.messages import Announce, Command, Event, Heard, Join, Learn, Neighbours, Refused, Start
from shared.libp2p_process import Libp2pProcess
from shared.refusals import Refusals
from shared.table import Change, Table
from shared.table_changes import TableChanges
from shared.types import PeerId
from shared.wire import FEATURES, PROTOCOL

logger = logging.getLogger(__name__)

PERIOD_S = 10.0
MESSAGES_PER_S = 10.0
"""What py-libp2p passes on for each topic and neighbour: with more peers, each announces itself less often."""
EXPIRE_S = 0.25
PORTS_TRIED = 100
LOOK_UP_AGAIN_S = 30.0


class NetworkSettings(Protocol):
    """What a network needs to be told; `shared.options.NodeSettings` has it all."""

    @property
    def swarm(self) -> str: ...
    @property
    def join(self) -> tuple[str, ...]: ...
    @property
    def listen(self) -> str: ...
    @property
    def p2p_port(self) -> int | None: ...
    @property
    def announce(self) -> tuple[str, ...]: ...
    @property
    def state_dir(self) -> Path: ...


class Network:
    """Async context manager: inside, the node is part of its swarm; at the end it says goodbye.

    `table` has the live announcements of all others. `addresses` are the node's own control multiaddrs with
    `/p2p/ID`, by which others join. `refusals` are those of the whole node, its links included. Without --p2p-port it
    listens on `default_port` or the next one that is free.
    """

    def __init__(
        self,
        identity: Identity,
        settings: NetworkSettings,
        *,
        default_port: int,
        data_port: int | None = None,
        period_s: float = PERIOD_S,
        refusals: Refusals | None = None,
    ) -> None:
        """Raises UsageError for a --join, --listen or --announce that makes no sense."""
        self.table = Table(settings.swarm)
        self.refusals = refusals or Refusals()
        self.addresses: tuple[str, ...] = ()
        self._identity = identity
        self._settings = settings
        self._data_port = data_port
        self._least_period_s = period_s
        self._urls = [where for where in settings.join if is_url(where) and health_url(where)]
        self._join = {str(join_address(where)): None for where in settings.join if not is_url(where)}
        self._listen = listen_host(settings.listen)
        own_addresses(self._listen, settings.announce, default_port, data_port)
        free = range(default_port, min(default_port + PORTS_TRIED, 2**16))
        self._ports = (settings.p2p_port,) if settings.p2p_port else tuple(free)
        self._changes = TableChanges(self.table)
        self._announcer = Announcer(identity, settings.state_dir / "sequence", self._period_s, self._publish)
        self._process = Libp2pProcess(self._begin, self._greet, self._hear, lambda: self._count(0))
        self._joined = asyncio.Event()
        self._alone = asyncio.Event()
        self._alone.set()
        self._tasks: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> Network:
        await self.start()
        return self

    async def __aexit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _traceback: TracebackType | None
    ) -> None:
        await self.stop()

    async def start(self) -> None:
        """Returns when the control plane listens. Raises UsageError when the port is taken, CorollaError."""
        await self._process.start()
        work: list[Coroutine[Any, Any, None]] = [self._announcer.run(), self._expire()]
        work += [look_up(url, self._found, self._until_missed) for url in self._urls]
        self._tasks = [asyncio.create_task(each) for each in work]

    async def stop(self) -> None:
        """Say goodbye and leave, within two seconds."""
        for task in self._tasks:
            task.cancel()
        ends = await asyncio.gather(*self._tasks, return_exceptions=True)
        self.goodbye()
        await self._process.stop()
        for end in ends:
            if isinstance(end, Exception):
                raise end

    @property
    def process_id(self) -> int | None:
        """Of the libp2p process."""
        return self._process.pid

    def changes(self) -> AsyncGenerator[Change, None]:
        """First a Joined for each live peer, then what changes in the table."""
        return self._changes.follow()

    async def announce(self, **fields: Any) -> None:
        """Tell the swarm (fields of `Offer`); what was told before and is not told anew stays.

        Coming online is told at once, other news within two seconds. Raises CorollaError for what cannot be told.
        """
        about = {"swarm": self._settings.swarm, "protocol": PROTOCOL, "features": FEATURES}
        addresses = own_addresses(self._listen, self._settings.announce, self._ports[0], self._data_port)
        self._announcer.announce(**{**about, "version": _software(), "addresses": addresses, **fields})

    def goodbye(self) -> None:
        """Tell the swarm that this node goes, and announce nothing more."""
        self._announcer.goodbye()

    async def joined(self, timeout_s: float) -> bool:
        """True as soon as there is a neighbour of this swarm, False when there is none in time."""
        try:
            async with asyncio.timeout(timeout_s):
                await self._joined.wait()
        except TimeoutError:
            return False
        return True

    def drop(self, peer: PeerId) -> None:
        """A peer cannot be reached: it is gone from this view until it announces itself anew."""
        self._tell(self.table.drop(peer, "its link was lost"))

    def _period_s(self) -> float:
        return max(self._least_period_s, len(self.table) / MESSAGES_PER_S)

    def _publish(self, record: bytes) -> None:
        self._process.send(Announce(record))

    def _begin(self) -> Start:
        level = logging.getLogger().level
        return Start(self._identity.seed, self._settings.swarm, self._listen, self._ports, level)

    def _greet(self, port: int) -> Iterable[Command]:
        """What a new process should know, above all after one that died."""
        self._ports = (port,)  # announced by now: another process must have the same
        control = own_addresses(self._listen, self._settings.announce, port, None)
        self.addresses = tuple(f"{each}/p2p/{self._identity.peer}" for each in control if not each.endswith("/tls"))
        for _, record, age_s in self.table.records(time.monotonic()):
            yield Learn(record, age_s)
        if self._announcer.record:
            yield Announce(self._announcer.record)
        yield Join(tuple(self._join))

    def _hear(self, event: Event) -> None:
        match event:
            case Neighbours(count):
                self._count(count)
            case Heard(record, age_s, source):
                self._take(record, age_s, source)
            case Refused(counts):
                self.refusals.add(counts)
            case _:
                raise AssertionError(f"{event} is not expected here")

    def _take(self, record: bytes, age_s: float, source: str) -> None:
        """Checked here too: the libp2p process deals with everybody, and is trusted no more than they are."""
        try:
            announcement = unseal(record, time.time())
            self._tell(self.table.accept(record, announcement, time.monotonic(), age_s, source))
        except ProtocolError as error:
            logger.warning("the libp2p process passed on what is no announcement: %s", error)

    def _tell(self, change: Change | None) -> None:
        if change:
            self._changes.tell(change)

    def _count(self, neighbours: int) -> None:
        (self._joined if neighbours else self._alone).set()
        (self._alone if neighbours else self._joined).clear()

    def _found(self, addresses: tuple[str, ...]) -> None:
        self._join.update(dict.fromkeys(addresses))
        self._process.send(Join(addresses))

    async def _until_missed(self, addresses: tuple[str, ...]) -> None:
        """Until this node is alone, or nobody hears of those behind the addresses: they may have others by now."""
        if not await self.joined(LOOK_UP_AGAIN_S):
            return
        peers = {join_address(each).peer for each in addresses}
        heard = True
        while heard and not self._alone.is_set():
            with suppress(TimeoutError):
                async with asyncio.timeout(LOOK_UP_AGAIN_S):
                    await self._alone.wait()
            heard = any(each.peer in peers for each in self.table)

    async def _expire(self) -> None:
        while True:
            for left in self.table.expire(time.monotonic()):
                self._tell(left)
            await asyncio.sleep(EXPIRE_S)


def _software() -> str:
    try:
        return version("corolla")
    except PackageNotFoundError:  # run from its source, without having been installed
        return ""
