"""A hop that is put between other nodes: a real peer, and a gateway that is also what lies before and behind it."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import pytest
import torch

from peer.sessions import Session
from shared.edges import DialledEdge, Edge
from shared.errors import HopFailed
from shared.identity import Identity
from shared.links import Link
from shared.pool import Dialler, LinkPool
from shared.tensors import Encoded, decode_hidden, encode_hidden
from shared.types import BlockRange, SessionId
from shared.wire import (
    AnyMessage,
    Close,
    Failure,
    Message,
    Open,
    Opened,
    Pong,
    Redirect,
    Redirected,
    Report,
    Status,
    Step,
)
from tests.chains import soon
from tests.loopback import FINGERPRINT, SWARM, Addresses, LocalPeer, load_blocks
from tests.tiny_models import make_tiny_model

SESSION = SessionId("5" * 32)
BLOCKS = BlockRange(0, 2)
HIDDEN = 64
M = TypeVar("M", bound=Message)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    return make_tiny_model(tmp_path_factory.mktemp("model"), blocks=2)


class Gateway:
    """Gives a hop its steps, and gets what the hop makes of them."""

    def __init__(self, peer: LocalPeer, addresses: Addresses) -> None:
        self.identity = Identity.create()
        self.peer = peer
        self.epoch = 1
        self.pool = LinkPool(Dialler(self.identity, SWARM, lambda peer: addresses[peer]))
        self.said: asyncio.Queue[AnyMessage] = asyncio.Queue()
        self.made: asyncio.Queue[tuple[Step, memoryview]] = asyncio.Queue()
        self.lost_edges: list[HopFailed] = []
        self._dialler = Dialler(self.identity, SWARM, lambda peer: addresses[peer])

    @property
    def session(self) -> Session:
        """As the hop has it."""
        found = self.peer.protocol.sessions.get(SESSION)
        assert found
        return found

    async def connect(self) -> None:
        self.control = await self._dialler.dial(self.peer.peer, "control")
        self.control.start(self)

    async def open(self, epoch: int = 1) -> None:
        """A session whose both neighbours are this gateway."""
        self.epoch = epoch
        blocks = (BLOCKS.start, BLOCKS.end)
        self.control.send(Open(fingerprint=FINGERPRINT, blocks=blocks, reserve=100, **self.place(epoch)))
        await self.attach(epoch)
        await self.next(Opened)

    def redirect(self, length: int, *, forward_from: int, epoch: int) -> None:
        self.control.send(Redirect(length=length, **self.place(epoch, forward_from)))

    async def rejoin(self, length: int, *, forward_from: int) -> None:
        """Redirect the hop to itself, with new edges."""
        self.epoch += 1
        self.detach()
        self.redirect(length, forward_from=forward_from, epoch=self.epoch)
        await self.attach(self.epoch)
        assert (await self.next(Redirected)).epoch == self.epoch

    def place(self, epoch: int, forward_from: int = 0) -> dict[str, Any]:
        me = self.identity.peer
        return {
            "session": SESSION,
            "upstream": me,
            "downstream": me,
            "epoch": epoch,
            "output": "steps",
            "forward_from": forward_from,
        }

    async def attach(self, epoch: int) -> None:
        """Both edges stand."""
        self.steps, self.outputs = [await self.edge(epoch) for _ in range(2)]
        await asyncio.gather(self.steps.attach("steps"), self.outputs.attach("outputs"))

    async def edge(self, epoch: int) -> DialledEdge:
        """On a link that may have served before."""
        link = await self.pool.acquire(self.peer.peer)
        return DialledEdge(
            link, SESSION, epoch, on_step=lambda *made: self.made.put_nowait(made), on_lost=self.lost_edge
        )

    def detach(self) -> None:
        for edge in (self.steps, self.outputs):
            if edge.detach():
                self.pool.release(edge.link)

    def push(self, hidden: torch.Tensor, position: int, round_: int = 1) -> None:
        specs, data = encode_hidden(hidden)
        step = Step(
            session=SESSION,
            epoch=self.epoch,
            round=round_,
            position=position,
            count=len(hidden),
            returns="none",
            tensors=specs,
        )
        self.steps.outlet.send(step, data)

    async def rows(self, start: int, end: int) -> torch.Tensor:
        """What comes next, which must be of exactly these positions."""
        rows = []
        while start < end:
            step, payload = await asyncio.wait_for(self.made.get(), 10)
            assert (step.position, step.epoch) == (start, self.epoch)
            rows.append(decode_hidden(Encoded(step.tensors, payload), (step.count, HIDDEN)))
            start += step.count
        assert start == end
        return torch.cat(rows)

    async def report(self) -> Report:
        self.control.send(Status(session=SESSION, number=1))
        return await self.next(Report)

    async def next(self, kind: type[M]) -> M:
        """What the hop says next, but for news of its cache; it must be a `kind`."""
        while True:
            message = await asyncio.wait_for(self.said.get(), 10)
            if not isinstance(message, Pong):
                assert isinstance(message, kind), message
                return message

    def received(self, link: Link, message: AnyMessage, payload: memoryview) -> None:
        self.said.put_nowait(message)

    def lost(self, link: Link, reason: str) -> None: ...

    def lost_edge(self, error: HopFailed) -> None:
        self.lost_edges.append(error)


@pytest.fixture
async def gateway(model: Path) -> AsyncIterator[Gateway]:
    addresses: Addresses = {}
    async with LocalPeer(addresses, model, str(BLOCKS)).serving(addresses) as peer:
        gateway = Gateway(peer, addresses)
        await gateway.connect()
        await gateway.open()
        yield gateway
        gateway.pool.close()


@pytest.fixture
def hidden() -> torch.Tensor:
    return torch.randn(20, HIDDEN)


@pytest.fixture
def right(model: Path, hidden: torch.Tensor) -> torch.Tensor:
    """What the hop's blocks make of `hidden`, undisturbed."""
    blocks = load_blocks(model, BLOCKS)
    return blocks.forward(hidden, blocks.new_cache(BLOCKS, len(hidden)), 0)


def same(rows: torch.Tensor, others: torch.Tensor) -> bool:
    return torch.allclose(rows, others, atol=1e-5)


@contextmanager
def busy(peer: LocalPeer) -> Iterator[None]:
    """No forward of this peer ends meanwhile."""
    go_on = threading.Event()
    peer.protocol.scheduler._thread.submit(go_on.wait)
    try:
        yield
    finally:
        go_on.set()


async def until_running(gateway: Gateway) -> None:
    while not (await gateway.report()).running:
        pass


async def test_what_was_made_before_is_sent_again_from_where_the_next_hop_lacks_it(
    gateway: Gateway, hidden: torch.Tensor, right: torch.Tensor
) -> None:
    gateway.push(hidden[:8], 0)
    await gateway.rows(0, 8)
    await gateway.rejoin(8, forward_from=3)
    gateway.push(hidden[8:10], 8)
    assert same(await gateway.rows(3, 10), right[3:10])
    assert gateway.peer.tokens == 10


async def test_a_step_is_cut_where_the_next_hop_has_its_beginning(
    gateway: Gateway, hidden: torch.Tensor, right: torch.Tensor
) -> None:
    gateway.push(hidden[:8], 0)
    await gateway.rows(0, 8)
    await gateway.rejoin(2, forward_from=6)
    gateway.push(hidden[2:5], 2)
    gateway.push(hidden[5:10], 5)
    assert same(await gateway.rows(6, 10), right[6:10])
    assert gateway.session.outbox.start == 0  # what was not sent on is kept all the same
    gateway.push(hidden[10:12], 10)
    assert same(await gateway.rows(10, 12), right[10:12])


async def test_a_rollback_after_it_may_go_below_what_was_held_back(
    gateway: Gateway, hidden: torch.Tensor, right: torch.Tensor
) -> None:
    gateway.push(torch.randn(8, HIDDEN), 0)
    await gateway.rows(0, 8)
    await gateway.rejoin(0, forward_from=6)
    gateway.push(torch.randn(8, HIDDEN), 0)
    await gateway.rows(6, 8)
    gateway.push(hidden[:9], 0, round_=2)
    assert same(await gateway.rows(0, 9), right[:9])


@pytest.mark.parametrize(("length", "epoch"), [(9, 2), (8, 1), (8, 0), (0, 1)])
async def test_an_order_that_cannot_be_is_refused_and_the_session_goes_on(
    gateway: Gateway, hidden: torch.Tensor, right: torch.Tensor, length: int, epoch: int
) -> None:
    gateway.push(hidden[:8], 0)
    await gateway.rows(0, 8)
    gateway.redirect(length, forward_from=0, epoch=epoch)
    failure = await gateway.next(Failure)
    assert (failure.code, failure.kept, failure.epoch) == ("protocol", True, epoch)
    gateway.push(hidden[8:10], 8)
    assert same(await gateway.rows(8, 10), right[8:10])


async def test_a_session_that_is_not_here_is_told(gateway: Gateway) -> None:
    gateway.control.send(Status(session="6" * 32, number=1))
    gateway.control.send(Redirect(length=0, **{**gateway.place(2), "session": "6" * 32}))
    for _ in range(2):
        failure = await gateway.next(Failure)
        assert (failure.code, failure.kept) == ("closed", False)


async def test_another_gateway_can_neither_look_nor_redirect(gateway: Gateway) -> None:
    stranger = Gateway(gateway.peer, {gateway.peer.peer: [("127.0.0.1", gateway.peer.listener.port)]})
    await stranger.connect()
    stranger.control.send(Status(session=SESSION, number=1))
    stranger.redirect(0, forward_from=0, epoch=5)
    for _ in range(2):
        assert (await stranger.next(Failure)).code == "closed"
    assert gateway.session.cursor.epoch == 1


async def test_an_edge_of_a_later_epoch_waits_for_the_redirect(
    gateway: Gateway, hidden: torch.Tensor, right: torch.Tensor
) -> None:
    gateway.push(hidden[:8], 0)
    await gateway.rows(0, 8)
    steps, outputs = await gateway.edge(2), await gateway.edge(2)
    attaching = asyncio.gather(steps.attach("steps"), outputs.attach("outputs"))
    gateway.push(hidden[8:9], 8)  # the epoch that stands goes on
    await gateway.rows(8, 9)
    assert not attaching.done()
    gateway.redirect(9, forward_from=9, epoch=2)
    await asyncio.wait_for(attaching, 10)
    await gateway.next(Redirected)
    gateway.steps, gateway.outputs, gateway.epoch = steps, outputs, 2
    gateway.push(hidden[9:12], 9)
    assert same(await gateway.rows(9, 12), right[9:12])


async def test_edges_of_two_later_epochs_wait_side_by_side(
    gateway: Gateway, hidden: torch.Tensor, right: torch.Tensor
) -> None:
    edges = {epoch: (await gateway.edge(epoch), await gateway.edge(epoch)) for epoch in (2, 3)}
    attaching = {
        epoch: asyncio.gather(steps.attach("steps"), outputs.attach("outputs"))
        for epoch, (steps, outputs) in edges.items()
    }
    await soon(lambda: len(gateway.peer.protocol.accepted._waiting) == 4)
    for epoch in (2, 3):
        gateway.redirect(0, forward_from=0, epoch=epoch)
        await asyncio.wait_for(attaching[epoch], 5)
        assert (await gateway.next(Redirected)).epoch == epoch
    gateway.epoch, (gateway.steps, gateway.outputs) = 3, edges[3]
    gateway.push(hidden[:8], 0)
    assert same(await gateway.rows(0, 8), right[:8])


@pytest.mark.parametrize("carries", ["steps", "outputs"])
async def test_a_stranger_that_attaches_is_refused_on_its_link_and_shunned_by_nobody(
    gateway: Gateway, hidden: torch.Tensor, right: torch.Tensor, carries: Edge
) -> None:
    """Another gateway may have sent it here."""
    stranger = Gateway(gateway.peer, {gateway.peer.peer: [("127.0.0.1", gateway.peer.listener.port)]})
    edge = await stranger.edge(1)
    with pytest.raises(HopFailed, match="may not attach") as failure:
        await edge.attach(carries)
    assert failure.value.code == "refused"
    assert not edge.link.closed
    assert not gateway.peer.listener.refusals.counted
    gateway.push(hidden[:8], 0)
    assert same(await gateway.rows(0, 8), right[:8])
    edge.detach()


async def test_a_failure_on_a_data_link_that_names_others_is_held_against_who_says_it(gateway: Gateway) -> None:
    assert gateway.session.inlet
    accusation = Failure(code="not_finite", reason="it was not me", session=SESSION, peer=Identity.create().peer)
    gateway.session.inlet.link.send(accusation)
    await soon(lambda: gateway.lost_edges)
    (error,) = gateway.lost_edges
    assert (error.code, error.peer, error.teller) == ("not_finite", gateway.peer.peer, None)


async def test_an_edge_of_an_earlier_epoch_is_refused_as_stale(gateway: Gateway) -> None:
    await gateway.rejoin(0, forward_from=0)
    with pytest.raises(HopFailed) as failure:
        await (await gateway.edge(1)).attach("steps")
    assert failure.value.code == "stale"


async def test_frames_of_an_earlier_epoch_are_dropped_and_counted_and_their_link_stays(
    gateway: Gateway, hidden: torch.Tensor, right: torch.Tensor
) -> None:
    old = gateway.steps
    gateway.redirect(0, forward_from=0, epoch=2)
    await gateway.attach(2)
    specs, data = encode_hidden(hidden[:4])
    late = Step(session=SESSION, epoch=1, round=9, position=0, count=4, returns="none", tensors=specs)
    for _ in range(3):
        old.outlet.send(late, data)
    await soon(lambda: gateway.session.cursor.dropped == 3)
    gateway.epoch = 2
    gateway.push(hidden[:8], 0)
    assert same(await gateway.rows(0, 8), right[:8])
    assert not old.link.closed


async def test_a_redirect_during_a_forward_drops_what_it_makes(
    gateway: Gateway, hidden: torch.Tensor, right: torch.Tensor
) -> None:
    gateway.push(hidden[:4], 0)
    await gateway.rows(0, 4)
    with busy(gateway.peer):
        gateway.push(torch.randn(4, HIDDEN), 4)
        await until_running(gateway)
        await gateway.rejoin(4, forward_from=2)
        gateway.push(hidden[4:8], 4)
    assert same(await gateway.rows(2, 8), right[2:8])
    assert gateway.peer.tokens == 12


async def test_a_session_can_be_opened_anew_while_a_forward_of_it_still_runs(
    gateway: Gateway, hidden: torch.Tensor, right: torch.Tensor
) -> None:
    """The gateway had given this peer up, and has nobody else now."""
    with busy(gateway.peer):
        gateway.push(torch.randn(4, HIDDEN), 0)
        await until_running(gateway)
        gateway.detach()
        gateway.control.send(Close(session=SESSION))
        await gateway.open(epoch=2)
        gateway.push(hidden[:4], 0)
    assert same(await gateway.rows(0, 4), right[:4])
    gateway.control.send(Close(session=SESSION))
    await asyncio.wait_for(gateway.peer.protocol.emptied(), 10)
    budget = gateway.peer.protocol.sessions.budget
    assert budget.free == budget.total


async def test_an_outbox_that_is_gone_is_told_and_the_session_is_kept(
    gateway: Gateway, hidden: torch.Tensor, right: torch.Tensor
) -> None:
    gateway.push(hidden[:8], 0)
    await gateway.rows(0, 8)
    gateway.session.outbox.drop()
    gateway.detach()
    gateway.redirect(8, forward_from=3, epoch=2)
    gateway.epoch = 2
    await gateway.attach(2)
    failure = await gateway.next(Failure)
    assert (failure.code, failure.kept, failure.epoch) == ("outbox_lost", True, 2)
    await gateway.next(Redirected)  # the edge stands
    report = await gateway.report()
    assert (report.length, report.outbox_from) == (8, 8)
    await gateway.rejoin(3, forward_from=3)
    gateway.push(hidden[3:10], 3)
    assert same(await gateway.rows(3, 10), right[3:10])


async def test_a_step_that_leaves_a_gap_fences_the_session_until_it_is_redirected(
    gateway: Gateway, hidden: torch.Tensor, right: torch.Tensor
) -> None:
    gateway.push(hidden[:8], 0)
    await gateway.rows(0, 8)
    gateway.push(hidden[9:10], 9)
    failure = await gateway.next(Failure)
    assert (failure.code, failure.kept, failure.peer) == ("gap", True, gateway.identity.peer)
    gateway.push(hidden[8:10], 8)  # is not taken any more
    await gateway.rejoin(8, forward_from=8)
    gateway.push(hidden[8:10], 8)
    assert same(await gateway.rows(8, 10), right[8:10])
    assert gateway.peer.tokens == 10
