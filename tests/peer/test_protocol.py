"""What a peer says about its cache on a control link: a real peer, and a gateway that is only a link."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import TypeVar

import pytest

from peer.sessions import UNNAMED_S
from shared.edges import DialledEdge
from shared.identity import Identity
from shared.links import Link
from shared.pool import Dialler
from shared.types import SessionId
from shared.wire import AnyMessage, Close, Extend, Extended, Failure, Message, Open, Opened, Ping, Pong
from tests.loopback import FINGERPRINT, SWARM, Addresses, LocalPeer
from tests.tiny_models import make_tiny_model

SESSION = SessionId("5" * 32)
M = TypeVar("M", bound=Message)


class Gateway:
    """Asks a peer for sessions, and keeps what it says in order."""

    def __init__(self, addresses: Addresses, peer: LocalPeer) -> None:
        self.identity = Identity.create()
        self.peer = peer
        self.dialler = Dialler(self.identity, SWARM, lambda peer: addresses[peer])
        self.said: asyncio.Queue[AnyMessage] = asyncio.Queue()

    async def connect(self) -> None:
        self.link = await self.dialler.dial(self.peer.identity.peer, "control")
        self.link.start(self)

    def open(self, reserve: int, session: str = SESSION, blocks: tuple[int, int] = (0, 2)) -> None:
        me = self.identity.peer
        self.link.send(
            Open(
                session=session,
                fingerprint=FINGERPRINT,
                blocks=blocks,
                upstream=me,
                downstream=me,
                reserve=reserve,
                epoch=1,
            )
        )

    async def next(self, kind: type[M]) -> M:
        """The next message, which must be a `kind`."""
        message = await asyncio.wait_for(self.said.get(), 5)
        assert isinstance(message, kind), message
        return message

    async def told(self) -> tuple[int, int, int]:
        """Free tokens, room and sessions by the next Pong, which must come unasked."""
        pong = await self.next(Pong)
        assert (pong.number, pong.cache_tokens, pong.longest_tokens) == (0, 1000, 900)
        return pong.free_cache_tokens, pong.room_tokens, pong.sessions

    def received(self, link: Link, message: AnyMessage, payload: memoryview) -> None:
        self.said.put_nowait(message)

    def lost(self, link: Link, reason: str) -> None:
        pass


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_model(tmp_path_factory.mktemp("model"), blocks=2)


@pytest.fixture
async def gateway(model: Path) -> AsyncIterator[Gateway]:
    addresses: Addresses = {}
    async with LocalPeer(addresses, model, "0:2", cache_tokens=1000).serving(addresses) as peer:
        gateway = Gateway(addresses, peer)
        await gateway.connect()
        yield gateway


async def test_every_change_of_the_cache_is_told_unasked(gateway: Gateway) -> None:
    gateway.open(100)
    assert await gateway.told() == (900, 800, 1)
    gateway.link.send(Extend(session=SESSION, reserve=300))
    assert await gateway.told() == (700, 600, 1)
    assert (await gateway.next(Extended)).reserve == 300
    gateway.link.send(Close(session=SESSION))
    assert await gateway.told() == (1000, 900, 0)


async def test_other_gateways_are_told_too(gateway: Gateway) -> None:
    other = Gateway({gateway.peer.identity.peer: [("127.0.0.1", gateway.peer.listener.port)]}, gateway.peer)
    await other.connect()
    other.link.send(Ping(number=7))
    assert (await other.next(Pong)).number == 7
    gateway.open(100)
    assert await other.told() == (900, 800, 1)


async def test_the_reservation_is_told_before_the_session_is_open(gateway: Gateway) -> None:
    gateway.open(100)
    edge = DialledEdge(
        await gateway.dialler.dial(gateway.peer.identity.peer, "data"), SESSION, 1, on_lost=lambda error: None
    )
    await edge.attach("outputs")
    assert await gateway.told() == (900, 800, 1)
    await gateway.next(Opened)
    edge.detach()


async def test_a_session_over_part_of_the_range_takes_its_part(gateway: Gateway) -> None:
    gateway.open(100, blocks=(1, 2))
    assert await gateway.told() == (950, 850, 1)


async def test_sessions_that_grow_take_the_tenth_that_new_ones_may_not(gateway: Gateway) -> None:
    gateway.open(901)
    assert (await gateway.next(Failure)).code == "out_of_cache"
    gateway.open(900, session="6" * 32)
    assert await gateway.told() == (100, 0, 1)
    gateway.open(1)
    assert (await gateway.next(Failure)).code == "out_of_cache"
    gateway.link.send(Extend(session="6" * 32, reserve=1000))
    assert await gateway.told() == (0, 0, 1)
    assert (await gateway.next(Extended)).reserve == 1000


@pytest.mark.parametrize("reserve", [0, 50, 100, 1001, 2**24 + 1, 2**31 - 1])
async def test_an_extension_that_cannot_be_is_answered_with_what_is_held(gateway: Gateway, reserve: int) -> None:
    gateway.open(100)
    await gateway.told()
    gateway.link.send(Extend(session=SESSION, reserve=reserve))
    assert (await gateway.next(Extended)).reserve == 100
    gateway.link.send(Ping(number=1, sessions=(SESSION,)))
    assert (await gateway.next(Pong)).free_cache_tokens == 900


async def test_nobody_else_can_extend_a_session(gateway: Gateway) -> None:
    gateway.open(100)
    await gateway.told()
    stranger = Gateway({gateway.peer.identity.peer: [("127.0.0.1", gateway.peer.listener.port)]}, gateway.peer)
    await stranger.connect()
    for session in (SESSION, "7" * 32):  # another's, and one that never was
        stranger.link.send(Extend(session=session, reserve=200))
    stranger.link.send(Ping(number=1))
    assert (await stranger.next(Pong)).free_cache_tokens == 900


async def test_an_extension_of_a_session_that_has_ended_is_not_answered(gateway: Gateway) -> None:
    gateway.open(100)
    await gateway.told()
    gateway.link.send(Close(session=SESSION))
    gateway.link.send(Extend(session=SESSION, reserve=200))
    assert await gateway.told() == (1000, 900, 0)
    gateway.link.send(Ping(number=1))
    assert (await gateway.next(Pong)).number == 1


async def test_an_abandoned_reservation_is_freed_whole_and_this_is_told(gateway: Gateway) -> None:
    gateway.open(100)
    await gateway.told()
    gateway.link.send(Extend(session=SESSION, reserve=400))
    assert await gateway.told() == (600, 500, 1)
    await gateway.next(Extended)
    (session,) = gateway.peer.protocol.sessions
    gateway.peer.protocol.reap()  # it is young: not yet
    session.opened_at -= UNNAMED_S + 1
    gateway.peer.protocol.reap()
    assert await gateway.told() == (1000, 900, 0)
    budget = gateway.peer.protocol.sessions.budget
    assert budget.free == budget.total
