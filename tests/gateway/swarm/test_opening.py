"""Opening chains over peers in this process: real links, real cache accounts, a table without libp2p."""

from __future__ import annotations

import asyncio
import itertools
import logging
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest
import torch

from gateway.swarm.admission import Admission
from gateway.swarm.chain import Chain
from gateway.swarm.peers import Peers
from gateway.swarm.swarm import Model, Swarm
from shared.errors import NoRoute, OutOfCache, QueueFull, QueueTimeout
from shared.identity import Identity
from shared.network import Network
from shared.pool import Dialler, LinkPool
from shared.tensors import Encoded, decode_hidden, encode_hidden
from shared.types import BlockRange, PeerId, Span
from tests.chains import no_inputs, soon
from tests.loopback import FINGERPRINT, SWARM, Addresses, LocalPeer
from tests.shared.announcements import Settings, announcement
from tests.tiny_models import make_tiny_model

BLOCKS, HIDDEN, RESERVE = 4, 64, 200
MODEL = Model("tests/Tiny", FINGERPRINT, BLOCKS, "--model tests/Tiny")


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    return make_tiny_model(tmp_path_factory.mktemp("model"), blocks=BLOCKS)


class Site:
    """A gateway's swarm over peers of 1,000 cache tokens, of which 900 can be opened: four sessions of `RESERVE`."""

    def __init__(self, directory: Path, state_dir: Path, stack: AsyncExitStack) -> None:
        self._identity = identity = Identity.create()
        self._directory = directory
        self._stack = stack
        self._sequences = itertools.count(1)
        self.addresses: Addresses = {}
        self.network = Network(identity, Settings(state_dir, SWARM), default_port=1)  # not started: a table alone
        dialler = Dialler(identity, SWARM, lambda peer: self.addresses.get(peer, []))
        self.peers = Peers(self.network, dialler, lambda fingerprint: True)
        self.pool = LinkPool(dialler)
        self.queue(length=64, limit_s=60)

    def queue(self, length: int, limit_s: float) -> None:
        """From now on chains are opened through a queue of this length and time."""
        self.admission = Admission(self.peers.changes, length, limit_s)
        self.swarm = Swarm(self._identity.peer, self.peers, self.pool, self.admission, wait_for_coverage_s=5)

    async def add(self, blocks: str, tokens_per_s: float = 10.0) -> LocalPeer:
        """A peer that the gateway can use."""
        peer = LocalPeer(self.addresses, self._directory, blocks)
        await self._stack.enter_async_context(peer.serving(self.addresses))
        self.announce(peer, tokens_per_s=tokens_per_s)
        await self.until(lambda: self.peers.controls[peer.identity.peer].connected)
        return peer

    def announce(self, peer: LocalPeer, **fields: object) -> None:
        about = {"swarm": SWARM, "fingerprint": FINGERPRINT, "model": MODEL.id, "model_blocks": BLOCKS}
        said = announcement(
            peer.identity,
            **{**about, "blocks": peer.blocks, "digests": (), "sequence": next(self._sequences), **fields},
        )
        self.network.table.accept(b"", said, time.monotonic())
        self.peers.refresh()

    async def until(self, condition: Callable[[], object], within_s: float = 5) -> None:
        """Return when it is true, looking at every change."""
        async with asyncio.timeout(within_s):
            while not condition():
                await self.peers.changes.wait()


@asynccontextmanager
async def running_site(directory: Path, state_dir: Path) -> AsyncIterator[Site]:
    async with AsyncExitStack() as stack:
        site = Site(directory, state_dir, stack)
        yield site
        site.peers.close()
        site.pool.close()


@pytest.fixture
async def site(directory: Path, tmp_path: Path) -> AsyncIterator[Site]:
    async with running_site(directory, tmp_path) as site:
        yield site


class Client:
    """A session of `RESERVE` tokens that is kept until it is told to end."""

    def __init__(self, site: Site, opened: list[Client], resuming: bool = False, reserve: int = RESERVE) -> None:
        self.chain: Chain | None = None
        self.may_end = asyncio.Event()
        self.task = asyncio.create_task(self._run(site, opened, resuming, reserve))

    async def _run(self, site: Site, opened: list[Client], resuming: bool, reserve: int) -> None:
        async with site.swarm.open_chain(MODEL, reserve, resuming, no_inputs) as chain:
            self.chain = chain
            opened.append(self)
            site.peers.changes.notify()
            await self.may_end.wait()
            chain.begin_round(0)
            await chain.push(encode_hidden(torch.randn(3, HIDDEN)), "last")
            decode_hidden(await chain.output(HIDDEN), (1, HIDDEN))


async def test_twelve_sessions_on_peers_with_room_for_four_all_complete_in_order(site: Site) -> None:
    await site.add("0:2")
    await site.add("2:4")
    opened: list[Client] = []
    clients = [Client(site, opened) for _ in range(12)]
    await site.until(lambda: len(opened) == 4)
    assert site.admission.waiting == 8
    assert set(opened) == set(clients[:4])
    for number in range(12):
        clients[number].may_end.set()
        await asyncio.wait_for(clients[number].task, 5)
        await site.until(lambda number=number: len(opened) == min(12, number + 5))
    assert opened[4:] == clients[4:]


async def test_sessions_that_come_at_once_do_not_all_choose_the_same_peer(
    site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    fast, slow = await site.add("0:4", tokens_per_s=100), await site.add("0:4", tokens_per_s=0.1)
    opened: list[Client] = []
    clients = [Client(site, opened) for _ in range(8)]
    await site.until(lambda: len(opened) == 8)
    assert [len(peer.protocol.sessions) for peer in (fast, slow)] == [4, 4]
    assert "could not be opened" not in caplog.text
    for client in clients:
        client.may_end.set()
        await asyncio.wait_for(client.task, 5)


async def test_a_peer_that_has_less_room_than_it_said_is_waited_for(
    site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    """Another gateway was faster: the Open is refused, and the request goes back into the line."""
    peer = await site.add("0:4")
    budget = peer.protocol.sessions.budget
    held = budget.open(peer.blocks, 800)  # of which the gateway is not told before the next Pong
    client = Client(site, opened := [])
    await site.until(lambda: site.admission.waiting == 1)
    assert "could not be opened" in caplog.text
    budget.release(held)
    await site.until(lambda: opened)
    client.may_end.set()
    await asyncio.wait_for(client.task, 5)


async def test_a_stream_that_goes_on_is_opened_before_those_who_came_earlier(site: Site) -> None:
    await site.add("0:4")
    opened: list[Client] = []
    first = [Client(site, opened) for _ in range(4)]
    await site.until(lambda: len(opened) == 4)
    new = Client(site, opened)
    moved = Client(site, opened, resuming=True)
    await asyncio.sleep(0)
    for client in (first[0], moved, new, *first[1:]):
        client.may_end.set()
        await asyncio.wait_for(client.task, 5)
    assert opened[4:] == [moved, new]


async def test_a_client_that_hangs_up_in_line_leaves_no_session(site: Site) -> None:
    peer = await site.add("0:4")
    opened: list[Client] = []
    clients = [Client(site, opened) for _ in range(6)]
    await site.until(lambda: len(opened) == 4)
    clients[4].task.cancel()
    clients[0].may_end.set()
    await site.until(lambda: len(opened) == 5)
    assert opened[4] is clients[5]
    for client in (*clients[:4], clients[5]):
        client.may_end.set()
        await asyncio.wait_for(client.task, 5)
    await site.until(lambda: not len(peer.protocol.sessions))
    assert site.admission.waiting == 0


async def test_a_session_that_no_peer_could_ever_hold_fails_at_once_though_others_wait(site: Site) -> None:
    await site.add("0:4")
    opened: list[Client] = []
    clients = [Client(site, opened) for _ in range(5)]
    await site.until(lambda: len(opened) == 4)
    with pytest.raises(OutOfCache, match="901 tokens of cache, and no peers of tests/Tiny hold more than 900"):
        await asyncio.wait_for(Client(site, opened, reserve=901).task, 1)
    for client in clients:
        client.may_end.set()
        await asyncio.wait_for(client.task, 5)


async def test_a_full_queue_and_a_long_wait_are_told(site: Site) -> None:
    await site.add("0:4")
    opened: list[Client] = []
    clients = [Client(site, opened) for _ in range(4)]
    await site.until(lambda: len(opened) == 4)
    site.queue(length=1, limit_s=0.2)
    late, later = Client(site, opened), Client(site, opened)
    with pytest.raises(QueueFull):
        await asyncio.wait_for(later.task, 1)
    with pytest.raises(QueueTimeout):
        await asyncio.wait_for(late.task, 2)
    for client in clients:
        client.may_end.set()
        await asyncio.wait_for(client.task, 5)


async def test_a_part_that_goes_missing_fails_those_who_wait_at_once(site: Site) -> None:
    await site.add("0:2")
    gone = await site.add("2:4")
    opened: list[Client] = []
    clients = [Client(site, opened) for _ in range(6)]
    await site.until(lambda: len(opened) == 4)
    site.announce(gone, state="draining")
    for client in clients[4:]:
        with pytest.raises(NoRoute, match="2:4"):
            await asyncio.wait_for(client.task, 2)
    for client in clients[:4]:
        client.may_end.set()
        await asyncio.wait_for(client.task, 5)


async def test_a_stream_that_goes_on_waits_for_blocks_that_nobody_serves_and_a_new_one_does_not(site: Site) -> None:
    await site.add("0:2")
    moved, new = Client(site, opened := [], resuming=True), Client(site, opened)
    with pytest.raises(NoRoute, match="2:4"):
        await asyncio.wait_for(new.task, 1)
    await site.add("2:4")
    await site.until(lambda: opened == [moved])
    moved.may_end.set()
    await asyncio.wait_for(moved.task, 5)


async def test_a_stream_that_goes_on_waits_for_missing_blocks_no_longer_than_the_limit(site: Site) -> None:
    await site.add("0:2")
    site.swarm._wait_for_coverage_s = 0.2
    with pytest.raises(NoRoute, match="2:4"):
        await asyncio.wait_for(Client(site, [], resuming=True).task, 3)


async def test_a_chain_that_lost_its_hop_gets_the_next_room_before_a_new_request(site: Site) -> None:
    lost, rows = await site.add("0:4"), torch.randn(3, HIDDEN)

    async def inputs(start: int, end: int) -> AsyncIterator[Encoded]:
        yield encode_hidden(rows[start:end])

    async with site.swarm.open_chain(MODEL, RESERVE, False, inputs) as chain:
        spare = await site.add("0:4")
        give_room = await fill(site, spare)
        lost.die()
        chain.begin_round(0)
        await chain.push(encode_hidden(rows), "last")
        going_on = asyncio.create_task(chain.output(HIDDEN))
        await soon(lambda: site.admission.waiting == 1)
        new = Client(site, opened := [])
        for _ in range(200):
            site.peers.changes.notify()  # each time it looks again
            await asyncio.sleep(0)
        assert site.admission.waiting == 2
        give_room()
        decode_hidden(await asyncio.wait_for(going_on, 5), (1, HIDDEN))
        assert [span.peer for span in chain.route] == [spare.peer]
        assert not opened
    await site.until(lambda: opened)
    new.may_end.set()
    await asyncio.wait_for(new.task, 5)


async def fill(site: Site, peer: LocalPeer) -> Callable[[], None]:
    """No room is left on this peer; what is returned makes room for one session of `RESERVE`."""
    budget = peer.protocol.sessions.budget
    budget.open(peer.blocks, 600)
    rest = budget.open(peer.blocks, 250)
    peer.protocol._tell_all()
    await site.until(lambda: site.peers.controls[peer.peer].room_tokens < RESERVE)

    def give_room() -> None:
        budget.release(rest)
        assert RESERVE <= budget.room_tokens < 2 * RESERVE
        peer.protocol._tell_all()

    return give_room


async def test_a_peer_that_refuses_what_waiting_does_not_mend_is_gone_around(site: Site) -> None:
    """It is chosen first, but does not hold all the blocks that it announces."""
    liar = await site.add("0:2", tokens_per_s=1000)
    site.announce(liar, tokens_per_s=1000, blocks=BlockRange(0, BLOCKS))
    honest = await site.add("0:4")
    client = Client(site, opened := [])
    await site.until(lambda: opened)
    assert client.chain
    assert [span.peer for span in client.chain.route] == [honest.identity.peer]
    client.may_end.set()
    await asyncio.wait_for(client.task, 5)


async def test_a_peer_that_has_proved_slower_than_it_says_is_avoided(site: Site) -> None:
    """It says that it is faster than the other, and is fifty times slower than it says."""
    proud = await site.add("0:4", tokens_per_s=20)
    modest = await site.add("0:4", tokens_per_s=10)

    async def chosen() -> PeerId:
        async with site.swarm.open_chain(MODEL, RESERVE, False, no_inputs) as chain:
            return chain.route[0].peer

    assert await chosen() == proud.identity.peer
    for _ in range(10):
        site.peers.ran(Span(proud.identity.peer, BlockRange(1, 3)), forward_s=50 / 20 * 2 / 4)
    assert await chosen() == modest.identity.peer
