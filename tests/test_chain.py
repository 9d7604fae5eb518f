"""A chain over three peers: real links and real blocks of a tiny model, in one process, without a control plane."""

from __future__ import annotations

import asyncio
import gc
import shutil
import time
import weakref
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch
from safetensors.torch import load_file, save_file

from gateway.swarm.chain import Chain, OnHops
from gateway.swarm.control import Control, SessionMessage
from gateway.swarm.relay import RelayedEdges
from peer.model.blocks import Blocks
from shared.changes import Changes
from shared.edges import DialledEdge
from shared.errors import HopFailed
from shared.identity import Identity
from shared.pool import Dialler, LinkPool
from shared.tensors import decode_hidden, encode_hidden
from shared.types import BlockRange, Fingerprint, PeerId, SessionId, Span
from shared.wire import HEADER, LENGTH, Ack, Close, Extended, Failure, HopTime, Open, Output, Step
from tests.chains import GivesUp, no_inputs
from tests.loopback import FINGERPRINT, SWARM, Addresses, LocalPeer, control_link
from tests.tiny_models import make_tiny_model

BLOCKS, HIDDEN = 6, 64


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_model(tmp_path_factory.mktemp("model"), blocks=BLOCKS)


class Swarm:
    """Three peers that hold a third each, and what a gateway needs to run chains over them."""

    def __init__(self, model: Path) -> None:
        self.identity = Identity.create()
        self.addresses: Addresses = {}
        self.dialler = Dialler(self.identity, SWARM, lambda peer: self.addresses.get(peer, []))
        self.pool = LinkPool(self.dialler)
        self.peers = [LocalPeer(self.addresses, model, blocks) for blocks in ("0:2", "2:4", "4:6")]
        self.controls: dict[PeerId, Control] = {}
        self.changes = Changes()

    @property
    def route(self) -> tuple[Span, ...]:
        return tuple(Span(peer.identity.peer, peer.blocks) for peer in self.peers)

    def chain(self) -> Chain:
        return self.chain_that_tells(lambda peer, spent: None)

    def chain_that_tells(self, on_hops: OnHops) -> Chain:
        return Chain(self.identity.peer, self.route, self.controls, self.pool, GivesUp(), RelayedEdges(), on_hops)

    def free(self) -> list[int]:
        return [peer.protocol.sessions.budget.free_tokens for peer in self.peers]

    async def all_free(self) -> None:
        """Return when every cache token is free again, within 2 s, and the gateway has been told of it unasked."""
        async with asyncio.timeout(2):
            while self.free() != [1000] * 3:
                await self.changes.wait()


@pytest.fixture
async def swarm(model: Path) -> AsyncIterator[Swarm]:
    swarm = Swarm(model)
    async with AsyncExitStack() as stack:
        for peer in swarm.peers:
            await stack.enter_async_context(peer.serving(swarm.addresses))
        for peer in swarm.peers:
            control = await stack.enter_async_context(control_link(peer.identity.peer, swarm.dialler, swarm.changes))
            swarm.controls[control.peer] = control
        yield swarm
        swarm.pool.close()


def steps_edge(chain: Chain) -> DialledEdge:
    assert chain.lineup
    return chain.lineup.edges[chain.route[0].peer, "steps"]


def outputs_edge(chain: Chain) -> DialledEdge:
    assert chain.lineup
    return chain.lineup.edges[chain.route[-1].peer, "outputs"]


def whole(model: Path, hidden: torch.Tensor) -> torch.Tensor:
    """What all blocks in one place make of these hidden states."""
    blocks = Blocks.load(
        model, BlockRange(0, BLOCKS), dtype=torch.float32, device=torch.device("cpu"), quantization="none"
    )
    return blocks.forward(hidden, blocks.new_cache(BlockRange(0, BLOCKS), len(hidden)), 0)


async def run(chain: Chain, hidden: torch.Tensor, position: int, chunk: int = 4) -> torch.Tensor:
    """One round in chunks: the last row."""
    chain.begin_round(position)
    chunks = hidden.split(chunk)
    for part in chunks:
        await chain.push(encode_hidden(part), "last" if part is chunks[-1] else "none")
    return decode_hidden(await chain.output(HIDDEN), (1, HIDDEN))


async def test_prefill_decode_and_rollback_give_what_one_place_gives(swarm: Swarm, model: Path) -> None:
    hidden = torch.randn(20, HIDDEN)
    chain = swarm.chain()
    await chain.open(FINGERPRINT, 20, no_inputs)
    prefill = await run(chain, hidden[:17], 0)
    decode = await run(chain, hidden[17:18], 17)
    rolled_back = await run(chain, hidden[14:20], 14)
    chain.close()
    for row, tokens in ((prefill, 17), (decode, 18), (rolled_back, 20)):
        assert torch.allclose(row, whole(model, hidden[:tokens])[-1:], atol=1e-5)
    await swarm.all_free()


async def test_links_are_used_again_by_the_next_session(swarm: Swarm) -> None:
    for _ in range(3):
        chain = swarm.chain()
        await chain.open(FINGERPRINT, 20, no_inputs)
        await run(chain, torch.randn(5, HIDDEN), 0)
        chain.close()
        await swarm.all_free()
    assert len(swarm.peers[1].listener.links) == 2  # one control link, one data link from the hop before


@pytest.mark.slow
async def test_a_prompt_longer_than_the_window_goes_through(swarm: Swarm) -> None:
    for peer in swarm.peers:
        budget = peer.protocol.sessions.budget
        budget.total = budget.free = 100 * budget.total
    chain = swarm.chain()
    await chain.open(FINGERPRINT, 20_000, no_inputs)
    await asyncio.wait_for(run(chain, torch.randn(20_000, HIDDEN), 0, chunk=4000), 60)  # 5 MB, the window is 4 MB
    chain.close()


async def test_too_little_cache_on_one_hop_frees_the_others(swarm: Swarm) -> None:
    busy = swarm.peers[1]
    held = busy.protocol.sessions.budget.open(busy.blocks, 895)  # of 900 that may be opened
    chain = swarm.chain()
    with pytest.raises(HopFailed) as failure:
        await chain.open(FINGERPRINT, 20, no_inputs)
    assert (failure.value.code, failure.value.peer) == ("out_of_cache", busy.identity.peer)
    chain.close()
    busy.protocol.sessions.budget.release(held)
    await swarm.all_free()


async def test_another_model_is_refused(swarm: Swarm) -> None:
    with pytest.raises(HopFailed) as failure:
        await swarm.chain().open(Fingerprint("0" * 64), 20, no_inputs)
    assert failure.value.code == "wrong_model"


async def test_a_hop_that_cannot_be_dialled_is_named_by_the_hop_before(swarm: Swarm) -> None:
    swarm.addresses[swarm.peers[1].identity.peer] = [("127.0.0.1", 1)]
    chain = swarm.chain()
    with pytest.raises(HopFailed) as failure:
        await chain.open(FINGERPRINT, 20, no_inputs)
    assert (failure.value.code, failure.value.peer) == ("unreachable", swarm.peers[1].identity.peer)
    chain.close()
    await swarm.all_free()


@pytest.mark.parametrize("hop", [0, 1, 2])
async def test_a_hop_that_goes_ends_the_step_at_once(swarm: Swarm, hop: int) -> None:
    chain = swarm.chain()
    await chain.open(FINGERPRINT, 20, no_inputs)
    await run(chain, torch.randn(5, HIDDEN), 0)
    for link in list(swarm.peers[hop].listener.links):
        link.abort("the test pulls the plug")
    with pytest.raises(HopFailed):
        await asyncio.wait_for(run(chain, torch.randn(1, HIDDEN), 5), 2)
    chain.close()


@pytest.mark.parametrize("row", [torch.nan, torch.inf])
async def test_hidden_states_that_are_not_finite_name_who_sent_them(swarm: Swarm, row: float) -> None:
    chain = swarm.chain()
    await chain.open(FINGERPRINT, 20, no_inputs)
    with pytest.raises(HopFailed) as failure:
        await run(chain, torch.full((1, HIDDEN), row), 0)
    assert (failure.value.code, failure.value.peer) == ("not_finite", swarm.identity.peer)
    chain.close()


async def test_a_broken_block_is_named_and_gives_no_output(swarm: Swarm, model: Path, tmp_path: Path) -> None:
    broken = LocalPeer(swarm.addresses, with_nan_in_block(3, model, tmp_path), "2:4")
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(broken.serving(swarm.addresses))
        control = control_link(broken.identity.peer, swarm.dialler, swarm.changes)
        swarm.controls[broken.identity.peer] = await stack.enter_async_context(control)
        swarm.peers[1] = broken
        chain = swarm.chain()
        await chain.open(FINGERPRINT, 20, no_inputs)
        with pytest.raises(HopFailed) as failure:
            await run(chain, torch.randn(3, HIDDEN), 0)
        chain.close()
    assert (failure.value.code, failure.value.peer) == ("not_finite", broken.identity.peer)


def with_nan_in_block(block: int, source: Path, directory: Path) -> Path:
    """A copy of a model with one weight of a block spoiled, as a broken disk or GPU may do."""
    shutil.copytree(source, directory, dirs_exist_ok=True)
    for shard in directory.glob("*.safetensors"):
        tensors = load_file(shard)
        for name in tensors:
            if f"layers.{block}.mlp.down_proj" in name:
                tensors[name][0, 0] = torch.nan
        save_file(tensors, shard, metadata={"format": "pt"})
    return directory


async def test_a_step_beyond_the_reservation_ends_the_session(swarm: Swarm) -> None:
    chain = swarm.chain()
    await chain.open(FINGERPRINT, 4, no_inputs)
    with pytest.raises(HopFailed) as failure:
        await run(chain, torch.randn(5, HIDDEN), 0, chunk=5)
    assert failure.value.code == "cache_overrun"
    chain.close()


async def test_an_extended_session_goes_on_beyond_its_first_reservation(swarm: Swarm, model: Path) -> None:
    hidden = torch.randn(30, HIDDEN)
    chain = swarm.chain()
    await chain.open(FINGERPRINT, 10, no_inputs)
    await run(chain, hidden[:10], 0)
    assert chain.reserve == 10
    assert await chain.extend(30)
    assert chain.reserve == 30
    assert swarm.free() == [970] * 3
    assert torch.allclose(await run(chain, hidden[10:], 10), whole(model, hidden)[-1:], atol=1e-5)
    chain.close()
    await swarm.all_free()


async def test_one_hop_without_room_refuses_an_extend_and_the_session_goes_on(swarm: Swarm) -> None:
    busy = swarm.peers[1]
    chain = swarm.chain()
    await chain.open(FINGERPRINT, 10, no_inputs)
    budget = busy.protocol.sessions.budget
    held = budget.open(busy.blocks, 890)
    assert not await chain.extend(200)
    assert chain.reserve == 10
    await run(chain, torch.randn(10, HIDDEN), 0)
    budget.release(held)
    assert await chain.extend(150)  # less than the others hold by now
    assert chain.reserve == 150
    chain.close()
    await swarm.all_free()


async def test_decoding_goes_on_while_an_extend_is_under_way(swarm: Swarm, model: Path) -> None:
    hidden = torch.randn(40, HIDDEN)
    chain = swarm.chain()
    await chain.open(FINGERPRINT, 20, no_inputs)
    extending = asyncio.create_task(chain.extend(40))
    for position in range(20):
        await run(chain, hidden[position : position + 1], position)
    assert await extending
    assert torch.allclose(await run(chain, hidden[20:], 20), whole(model, hidden)[-1:], atol=1e-5)
    chain.close()


async def test_an_extend_that_is_not_answered_in_time_is_a_refusal(
    swarm: Swarm, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.swarm.hops.EXTEND_S", 0.1)
    chain = swarm.chain()
    await chain.open(FINGERPRINT, 10, no_inputs)
    silent = next(iter(swarm.peers[2].protocol.sessions))
    swarm.peers[2].protocol.sessions.close(silent)  # what is closed is not answered for
    assert not await chain.extend(20)
    assert chain.reserve == 10
    chain.close()


async def test_a_hop_that_goes_keeps_nobody_waiting_for_its_extend(swarm: Swarm) -> None:
    chain = swarm.chain()
    await chain.open(FINGERPRINT, 10, no_inputs)
    silent = next(iter(swarm.peers[2].protocol.sessions))
    swarm.peers[2].protocol.sessions.close(silent)
    extending = asyncio.create_task(chain.extend(20))
    for link in list(swarm.peers[2].listener.links):
        link.abort("the test pulls the plug")
    await asyncio.wait_for(extending, 2)  # whoever takes its place holds as many
    assert chain.asked == 20
    chain.close()


async def test_what_nobody_asked_for_extends_nothing(swarm: Swarm) -> None:
    chain = swarm.chain()
    await chain.open(FINGERPRINT, 10, no_inputs)
    for peer in swarm.controls:
        chain.hop_said(peer, Extended(session=chain.session, reserve=2**31 - 1))
    assert chain.reserve == 10
    assert await chain.extend(20)
    assert chain.reserve == 20
    chain.close()


async def test_what_each_hop_spent_is_told_for_every_output(swarm: Swarm) -> None:
    told: list[tuple[PeerId, HopTime]] = []
    chain = swarm.chain_that_tells(lambda peer, spent: told.append((peer, spent)))
    await chain.open(FINGERPRINT, 20, no_inputs)
    await run(chain, torch.randn(8, HIDDEN), 0, chunk=4)
    assert [peer for peer, _ in told] == 2 * [span.peer for span in swarm.route]
    assert all(forward_us > 0 for _, (_, forward_us) in told)
    chain.close()


async def test_times_of_more_or_fewer_hops_than_there_are_tell_nothing(swarm: Swarm) -> None:
    told: list[PeerId] = []
    chain = swarm.chain_that_tells(lambda peer, spent: told.append(peer))
    await chain.open(FINGERPRINT, 20, no_inputs)
    edge = outputs_edge(chain)
    for hops in ((), ((1, 1),), ((1, 1),) * 4):
        output = Output(session=chain.session, epoch=1, round=0, position=0, count=0, hops=hops)
        edge.received(edge.link, output, memoryview(b""))
    assert told == []
    chain.close()


async def test_a_prompt_that_advances_may_take_longer_than_a_hop_may_be_still(
    swarm: Swarm, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Frames go in one by one, each when the one before is through, while somebody waits for the output."""
    monkeypatch.setattr("gateway.swarm.patience.LEAST_S", 0.5)
    through = asyncio.Event()
    chain = swarm.chain_that_tells(lambda peer, spent: through.set())
    await chain.open(FINGERPRINT, 900, no_inputs)
    chain.begin_round(0)
    await chain.push(encode_hidden(torch.randn(1, HIDDEN)), "none")
    waiting = asyncio.create_task(chain.output(HIDDEN))
    since = time.monotonic()
    while time.monotonic() - since < 1.1:
        await asyncio.wait_for(through.wait(), 5)
        through.clear()
        await chain.push(encode_hidden(torch.randn(1, HIDDEN)), "none")
    await chain.push(encode_hidden(torch.randn(1, HIDDEN)), "last")
    decode_hidden(await asyncio.wait_for(waiting, 5), (1, HIDDEN))
    chain.close()


async def test_a_chain_that_stands_still_fails(swarm: Swarm, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.swarm.patience.LEAST_S", 0.1)
    chain = swarm.chain()
    await chain.open(FINGERPRINT, 20, no_inputs)
    chain.begin_round(0)
    await chain.push(encode_hidden(torch.randn(3, HIDDEN)), "none")  # nothing is asked for
    with pytest.raises(HopFailed, match="does not come"):
        await asyncio.wait_for(chain.output(HIDDEN), 5)
    chain.close()


async def test_a_hop_that_repeats_an_output_does_not_seem_to_advance(
    swarm: Swarm, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.swarm.patience.LEAST_S", 0.2)
    chain = swarm.chain()
    await chain.open(FINGERPRINT, 20, no_inputs)
    chain.begin_round(0)
    await chain.push(encode_hidden(torch.randn(3, HIDDEN)), "none")
    edge = outputs_edge(chain)
    again = Output(session=chain.session, epoch=1, round=1, position=3, count=0)
    waiting = asyncio.create_task(chain.output(HIDDEN))
    since = time.monotonic()
    while not waiting.done() and time.monotonic() - since < 5:
        edge.received(edge.link, again, memoryview(b""))
        await asyncio.sleep(0)
    assert waiting.done()
    with pytest.raises(HopFailed):
        waiting.result()
    chain.close()


async def test_late_and_repeated_frames_change_nothing(swarm: Swarm, model: Path) -> None:
    hidden = torch.randn(8, HIDDEN)
    chain = swarm.chain()
    await chain.open(FINGERPRINT, 20, no_inputs)
    await run(chain, hidden[:6], 0)
    specs, data = encode_hidden(torch.randn(1, HIDDEN))
    step = Step(session=chain.session, epoch=1, round=1, position=6, count=1, returns="last", tensors=specs)
    for epoch, round_, position in ((1, 0, 0), (1, 1, 3), (0, 9, 6), (2, 9, 6)):
        late = msgspec.structs.replace(step, epoch=epoch, round=round_, position=position)
        steps_edge(chain).outlet.send(late, data)
    row = await run(chain, hidden[6:], 6)
    assert torch.allclose(row, whole(model, hidden)[-1:], atol=1e-5)
    assert next(iter(swarm.peers[0].protocol.sessions)).cursor.dropped == 4
    chain.close()


async def test_a_closed_session_keeps_no_cache_though_its_links_stay(swarm: Swarm) -> None:
    chain = swarm.chain()
    await chain.open(FINGERPRINT, 20, no_inputs)
    await run(chain, torch.randn(5, HIDDEN), 0)
    caches = [weakref.ref(session.cache) for peer in swarm.peers for session in peer.protocol.sessions]
    for control in swarm.controls.values():
        control.release(chain.session)  # Close, but no Detach
    await swarm.all_free()
    gc.collect()
    assert [cache() for cache in caches] == [None] * 3
    chain.close()


async def test_a_step_whose_bytes_are_not_its_tensors_ends_the_link(swarm: Swarm) -> None:
    chain = swarm.chain()
    await chain.open(FINGERPRINT, 20, no_inputs)
    step = Step(session=chain.session, epoch=1, round=1, position=0, count=1, returns="last", tensors=())
    steps_edge(chain).outlet.send(step)
    with pytest.raises(HopFailed, match="tensor"):
        await chain.output(HIDDEN)
    chain.close()
    await swarm.all_free()


async def test_an_ack_on_the_steps_edge_opens_no_other_window(swarm: Swarm) -> None:
    chain = swarm.chain()
    await chain.open(FINGERPRINT, 20, no_inputs)
    await run(chain, torch.randn(5, HIDDEN), 0)
    session = next(iter(swarm.peers[2].protocol.sessions))
    assert session.inlet
    assert session.outlet
    ack = Ack(session=session.id, received=2**40)  # more than was ever sent: on the outputs edge it would be refused
    swarm.peers[2].protocol.accepted.received(session.inlet.link, ack, memoryview(b""))
    await run(chain, torch.randn(1, HIDDEN), 5)
    chain.close()


async def test_nobody_else_can_attach_to_a_session(swarm: Swarm) -> None:
    chain = swarm.chain()
    await chain.open(FINGERPRINT, 20, no_inputs)
    stranger = LinkPool(Dialler(Identity.create(), SWARM, lambda peer: swarm.addresses[peer]))
    link = await stranger.acquire(swarm.peers[0].identity.peer)
    edge = DialledEdge(link, chain.session, 1, on_lost=lambda error: None)
    with pytest.raises(HopFailed, match="may not attach"):
        await edge.attach("steps")
    await run(chain, torch.randn(2, HIDDEN), 0)
    chain.close()


async def test_nobody_else_can_close_a_session(swarm: Swarm) -> None:
    chain = swarm.chain()
    await chain.open(FINGERPRINT, 20, no_inputs)
    link = await Dialler(Identity.create(), SWARM, lambda peer: swarm.addresses[peer]).dial(
        swarm.peers[0].identity.peer, "control"
    )
    link.send(Close(session=chain.session))
    await run(chain, torch.randn(2, HIDDEN), 0)
    assert len(swarm.peers[0].protocol.sessions) == 1
    link.close()
    chain.close()


class Owner:
    """Waits for what a hop says about one session."""

    def __init__(self) -> None:
        self.failed: asyncio.Future[Failure] = asyncio.get_running_loop().create_future()

    def hop_said(self, peer: PeerId, message: SessionMessage) -> None:
        assert isinstance(message, Failure), "this session must not open"
        self.failed.set_result(message)

    def hop_lost(self, peer: PeerId, reason: str) -> None:
        raise AssertionError(reason)

    def hop_drains(self, peer: PeerId) -> None:
        raise AssertionError("nobody drains")


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"blocks": (3, 5)}, "wrong_blocks"),
        ({"blocks": (2, 2)}, "protocol"),
        ({"reserve": 0}, "protocol"),
        ({"reserve": 2**31 - 1}, "out_of_cache"),
        ({"output": "top_logits"}, "unsupported"),
        ({"fingerprint": "0"}, "wrong_model"),
    ],
)
async def test_an_open_that_makes_no_sense_is_refused(swarm: Swarm, changes: dict[str, Any], code: str) -> None:
    owner, session = Owner(), SessionId("0" * 32)
    control = swarm.controls[swarm.peers[0].identity.peer]
    control.owners[session] = owner
    me = swarm.identity.peer
    sensible = Open(
        session=session, fingerprint=FINGERPRINT, blocks=(0, 2), upstream=me, downstream=me, reserve=5, epoch=1
    )
    control.send(msgspec.structs.replace(sensible, **changes))
    assert (await asyncio.wait_for(owner.failed, 5)).code == code
    assert swarm.free() == [1000] * 3


async def test_a_step_with_more_around_it_than_it_needs_ends_the_session(swarm: Swarm) -> None:
    """What lies around a step's tensor stays in memory with it, and the window does not count it."""
    chain = swarm.chain()
    await chain.open(FINGERPRINT, 20, no_inputs)
    specs, data = encode_hidden(torch.randn(1, HIDDEN))
    step = Step(session=chain.session, epoch=1, round=1, position=0, count=1, returns="last", tensors=specs)
    body = msgspec.msgpack.encode({**msgspec.to_builtins(step), "type": "step", "unknown": "x" * 5000})
    frame = HEADER.pack(LENGTH.size + len(body) + len(data), len(body)) + body + bytes(data)
    steps_edge(chain).link._transport.write(frame)
    with pytest.raises(HopFailed, match="4096 bytes"):
        await chain.output(HIDDEN)
    chain.close()
