"""The scheduler over real blocks: what it sends on, in which forwards, and who fails when something does."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, cast

import pytest
import torch

from peer import scheduler
from peer.cursor import Cursor
from peer.gathering import Gathering
from peer.model.blocks import Blocks
from peer.model.cache import CacheBudget
from peer.outbox import OutboxBudget
from peer.pace import Pace
from peer.scheduler import Forward, Scheduler
from peer.sessions import Session, Sessions
from shared.edges import Outlet
from shared.errors import CorollaError
from shared.links import Link
from shared.tensors import Encoded, decode_hidden, encode_hidden
from shared.types import BlockRange, PeerId, SessionId
from shared.wire import Output, Step
from tests.loopback import ALONE
from tests.tiny_models import make_tiny_model

RANGE = BlockRange(0, 3)
ME, GATEWAY = PeerId("me"), PeerId("gateway")


@pytest.fixture(scope="module", params=["llama", "bloom"])
def blocks(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Blocks:
    """A family whose sessions share forwards, and one whose sessions cannot."""
    directory: Path = make_tiny_model(tmp_path_factory.mktemp("model"), request.param, blocks=3)
    return Blocks.load(directory, RANGE, dtype=torch.float32, device=torch.device("cpu"), quantization="none")


class Downstream:
    """The other end of a session's outgoing edge."""

    def __init__(self) -> None:
        self.frames: list[tuple[Step | Output, memoryview]] = []
        self.tokens = 0
        self.changed = asyncio.Event()

    def send(self, message: Any, payload: memoryview) -> None:
        self.frames.append((message, payload))
        self.tokens = message.position + message.count
        self.changed.set()

    async def rows(self, tokens: int) -> torch.Tensor:
        """All hidden states sent, once the first `tokens` positions have been."""
        async with asyncio.timeout(20):
            while self.tokens < tokens:
                self.changed.clear()
                await self.changed.wait()
        return torch.cat([decode_hidden(Encoded(m.tensors, data), (m.count, 64)) for m, data in self.frames])


class Peer:
    """A scheduler with its sessions."""

    def __init__(self, blocks: Blocks, gathering: Gathering = ALONE) -> None:
        self.blocks = blocks
        self.changed = asyncio.Event()
        self.sessions = Sessions(
            CacheBudget.of_tokens(10_000, RANGE, blocks.cache_bytes), OutboxBudget(10**6), on_budget=self._freed
        )
        self.failures: dict[str, CorollaError] = {}
        self.forwards: list[Forward] = []
        pace = Pace(decode_s=0.05, token_s=0.05 / 40)  # 40 prompt tokens in the first forward; then what is measured
        self.scheduler = Scheduler(ME, blocks, self.sessions, self._fail, pace, gathering, self.forwards.append)

    def open(self, number: int, *, last: bool = False, used: BlockRange = RANGE) -> tuple[Session, Downstream]:
        downstream = Downstream()
        session = Session(
            id=SessionId(f"{number:032x}"),
            gateway=GATEWAY,
            upstream=GATEWAY,
            downstream=GATEWAY if last else PeerId("next"),
            blocks=used,
            reserve=400,
            cursor=Cursor(epoch=1),
            cache=self.blocks.new_cache(used, 400),
            outlet=Outlet(cast(Link, downstream), on_room=self.scheduler.wake),
        )
        self.sessions.add(session)
        return session, downstream

    def step(self, session: Session, hidden: torch.Tensor, position: int, round_: int, returns: Any = "last") -> None:
        specs, data = encode_hidden(hidden)
        step = Step(
            session=session.id,
            epoch=1,
            round=round_,
            position=position,
            count=len(hidden),
            returns=returns,
            tensors=specs,
            hops=((5, 6),),
        )
        self.scheduler.enqueue(session, step, memoryview(bytearray(data)))

    async def until_left(self, sessions: int) -> None:
        """Return when so many sessions are left."""
        async with asyncio.timeout(20):
            while len(self.sessions) > sessions:
                self.changed.clear()
                await self.changed.wait()

    def _freed(self, gateway: PeerId) -> None:
        self.changed.set()

    def _fail(self, session: Session, error: CorollaError) -> None:
        self.failures[session.id] = error
        self.close(session)

    def close(self, session: Session) -> None:
        self.sessions.close(session)
        self.scheduler.closed(session)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        task = asyncio.create_task(self.scheduler.run())
        try:
            yield
        finally:
            task.cancel()
            self.scheduler.stop()


def alone(blocks: Blocks, hidden: torch.Tensor, used: BlockRange = RANGE) -> torch.Tensor:
    return blocks.forward(hidden, blocks.new_cache(used, len(hidden)), 0)


async def test_a_long_prompt_goes_on_in_slices_while_others_decode(blocks: Blocks) -> None:
    peer = Peer(blocks)
    prompt, tokens = torch.randn(120, 64), torch.randn(6, 64)
    long, long_out = peer.open(1)
    short, short_out = peer.open(2)
    peer.step(short, tokens[:5], 0, 1)
    peer.step(long, prompt[:70], 0, 1, returns="none")
    peer.step(long, prompt[70:], 70, 1)
    peer.step(short, tokens[5:], 5, 2)
    async with peer.running():
        rows = await long_out.rows(120)
        assert torch.allclose(rows, alone(blocks, prompt), atol=1e-5)
        assert torch.allclose(await short_out.rows(6), alone(blocks, tokens), atol=1e-5)
    steps = [message for message, _ in long_out.frames if isinstance(message, Step)]
    assert steps[0].count <= 40
    assert [step.returns for step in steps] == ["none"] * (len(steps) - 1) + ["last"]
    assert all(step.hops[0] == (5, 6) and len(step.hops) == 2 for step in steps)
    assert (peer.forwards[0].sessions > 1) == blocks.batches


async def test_no_forward_takes_more_of_prompts_than_its_time(blocks: Blocks) -> None:
    peer = Peer(blocks)
    for number in range(3):
        peer.step(peer.open(number)[0], torch.randn(200, 64), 0, 1)
    _, out = (decoding, _) = peer.open(9)
    peer.step(decoding, torch.randn(1, 64), 0, 1)
    async with peer.running():
        await out.rows(1)
    assert peer.forwards[0].prefill_tokens <= 40
    decoded_in = next(index for index, each in enumerate(peer.forwards) if each.decode_tokens)
    assert decoded_in == (0 if blocks.batches else 3)


@pytest.mark.parametrize(("others", "most"), [(0, 200), (1, 40)])
async def test_a_cache_that_is_built_anew_takes_larger_forwards_while_nobody_else_is_there(
    blocks: Blocks, others: int, most: int
) -> None:
    peer = Peer(blocks)
    session, out = peer.open(9)
    for number in range(others):
        peer.open(number)
    peer.step(session, torch.randn(200, 64), 0, round_=0, returns="none")
    async with peer.running():
        await out.rows(200)
    assert peer.forwards[0].prefill_tokens == most


async def test_the_last_hop_answers_every_slice_and_returns_the_last_row(blocks: Blocks) -> None:
    peer = Peer(blocks)
    hidden = torch.randn(100, 64)
    session, out = peer.open(1, last=True)
    peer.step(session, hidden, 0, 1)
    async with peer.running():
        row = await out.rows(100)
    assert [message.count for message, _ in out.frames][-1] == 1
    assert not any(message.count for message, _ in out.frames[:-1])
    assert torch.allclose(row, alone(blocks, hidden)[-1:], atol=1e-5)


async def test_the_last_hop_returns_every_row_of_every_slice_once_all_are_asked_for(blocks: Blocks) -> None:
    peer = Peer(blocks)
    hidden = torch.randn(100, 64)
    session, out = peer.open(1, last=True)
    peer.step(session, hidden, 0, 1, returns="all")
    async with peer.running():
        rows = await out.rows(100)
    assert len(out.frames) > 1
    positions = [
        position for message, _ in out.frames for position in range(message.position, message.position + message.count)
    ]
    assert positions == list(range(100))
    assert torch.allclose(rows, alone(blocks, hidden), atol=1e-5)


async def test_a_copy_that_fails_fences_the_fork_and_leaves_its_parent(blocks: Blocks) -> None:
    peer = Peer(blocks)
    hidden = torch.randn(5, 64)
    parent, out = peer.open(1)
    fork, _ = peer.open(2)
    fork.done = 4  # more than the parent's cache holds
    peer.scheduler.fork(fork, parent)
    async with peer.running():
        await asyncio.wait_for(peer.scheduler.forked(fork), 20)
        assert set(peer.failures) == {fork.id}
        peer.step(parent, hidden, 0, 1)
        assert torch.allclose(await out.rows(5), alone(blocks, hidden), atol=1e-5)
    assert len(peer.sessions) == 1


def watched(peer: Peer, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What the torch thread does from now on, in order."""
    did: list[str] = []
    runner = peer.scheduler._runner
    for name in ("fork", "run"):
        work = getattr(runner, name)
        monkeypatch.setattr(runner, name, lambda *args, name=name, work=work: (did.append(name), work(*args))[1])
    return did


async def with_forks(peer: Peer, hidden: torch.Tensor, count: int) -> tuple[Session, Downstream, list[Session]]:
    """A session that has run these tokens, and others that are to begin as copies of it; nothing runs now."""
    parent, out = peer.open(1)
    peer.step(parent, hidden, 0, 1)
    task = asyncio.create_task(peer.scheduler.run())
    await out.rows(len(hidden))
    task.cancel()
    forks = [peer.open(2 + number)[0] for number in range(count)]
    for fork in forks:
        fork.done, fork.cursor = len(hidden), Cursor(epoch=1, length=len(hidden))
        peer.scheduler.fork(fork, parent)
    return parent, out, forks


async def test_between_two_forwards_few_caches_are_copied(blocks: Blocks, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scheduler, "COPIES_PART", 0.0)
    peer = Peer(blocks)
    _, _, forks = await with_forks(peer, torch.randn(5, 64), 9)
    did = watched(peer, monkeypatch)
    other, out = peer.open(99)
    peer.step(other, torch.randn(400, 64), 0, 1)
    async with peer.running():
        await out.rows(400)
        await asyncio.wait_for(asyncio.gather(*map(peer.scheduler.forked, forks)), 20)
    assert did[:6] == ["fork", "run"] * 3
    assert did.count("fork") == len(forks)


async def test_a_copy_that_nobody_wants_any_more_is_not_made(blocks: Blocks, monkeypatch: pytest.MonkeyPatch) -> None:
    peer = Peer(blocks)
    parent, _, (*unwanted, wanted) = await with_forks(peer, torch.randn(5, 64), 4)
    did = watched(peer, monkeypatch)
    for session in (parent, *unwanted):
        peer.close(session)
    assert len(peer.sessions) == 2  # at once, but for the one that is still to be copied
    async with peer.running():
        await asyncio.wait_for(peer.scheduler.forked(wanted), 20)
        await peer.until_left(1)
    assert did == ["fork"]


async def test_what_is_to_be_copied_does_not_change_before(blocks: Blocks, monkeypatch: pytest.MonkeyPatch) -> None:
    """The parent is rolled back while the last copy waits, and that fork's first step is there before its cache."""
    monkeypatch.setattr(scheduler, "COPIES_PART", 0.0)
    hidden, token = torch.randn(5, 64), torch.randn(1, 64)
    peer = Peer(blocks)
    parent, out, (*_, fork) = await with_forks(peer, hidden, 3)
    forked = Downstream()
    fork.outlet = Outlet(cast(Link, forked), on_room=peer.scheduler.wake)
    peer.step(parent, torch.randn(4, 64), 1, 2)
    peer.step(fork, token, 5, 1)
    async with peer.running():
        row = await forked.rows(6)
        await out.rows(5)
    assert torch.allclose(row, alone(blocks, torch.cat([hidden, token]))[5:], atol=1e-5)


async def test_one_that_sends_nonsense_fails_alone(blocks: Blocks) -> None:
    peer = Peer(blocks)
    hidden = torch.randn(4, 64)
    good, out = peer.open(1)
    gap, _ = peer.open(2)
    infinite, _ = peer.open(3)
    for session, rows, position in ((good, hidden, 0), (gap, hidden, 7), (infinite, hidden / 0, 0)):
        peer.step(session, rows, position, 1)
    async with peer.running():
        assert torch.allclose(await out.rows(4), alone(blocks, hidden), atol=1e-5)
        await peer.until_left(1)
    assert set(peer.failures) == {gap.id, infinite.id}
    assert "not finite" in str(peer.failures[infinite.id])


async def test_sessions_over_parts_of_the_range_take_turns(blocks: Blocks) -> None:
    peer = Peer(blocks)
    hidden, part = torch.randn(3, 64), BlockRange(1, 3)
    _, whole_out = (whole, _) = peer.open(1)
    _, part_out = (partial, _) = peer.open(2, used=part)
    peer.step(whole, hidden, 0, 1)
    peer.step(partial, hidden, 0, 1)
    async with peer.running():
        assert torch.allclose(await whole_out.rows(3), alone(blocks, hidden), atol=1e-5)
        assert torch.allclose(await part_out.rows(3), alone(blocks, hidden, part), atol=1e-5)
    assert [each.sessions for each in peer.forwards] == [1, 1]


async def test_a_session_that_is_closed_in_its_forward_is_freed_after_it(blocks: Blocks) -> None:
    peer = Peer(blocks)
    session, out = peer.open(1)
    peer.step(session, torch.randn(300, 64), 0, 1)
    async with peer.running():
        await out.rows(1)  # one slice is through, the next one runs or waits
        peer.close(session)
        await peer.until_left(0)
    assert peer.sessions.budget.free == peer.sessions.budget.total
    assert out.tokens < 300


async def test_on_a_crowded_machine_steps_that_come_one_by_one_share_a_forward(blocks: Blocks) -> None:
    peer = Peer(blocks, Gathering(lambda: True, at_once=1))
    opened = [peer.open(number) for number in range(3)]
    async with peer.running():
        for round_ in (1, 2, 3):
            for session, _ in opened:
                peer.step(session, torch.randn(1, 64), round_ - 1, round_)
                await asyncio.sleep(0)  # the scheduler sees it before the next one comes
            for _, out in opened:
                await out.rows(round_)
    together = 3 if blocks.batches else 1
    assert peer.forwards[-1].sessions == together


async def test_who_does_not_come_is_not_waited_for_for_long(blocks: Blocks) -> None:
    peer = Peer(blocks, Gathering(lambda: True, at_once=1))
    (one, one_out), (_, _) = opened = [peer.open(1), peer.open(2)]
    for session, _ in opened:
        peer.step(session, torch.randn(1, 64), 0, 1)
    async with peer.running():
        await one_out.rows(1)
        peer.step(one, torch.randn(1, 64), 1, 2)
        await one_out.rows(2)  # within the deadline, though the other session is silent
