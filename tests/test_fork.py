"""Chains that begin as copies of others, and rounds of which all rows come: real peers and links, in one process.

Every row is compared with what all blocks in one place make of the same inputs.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import msgspec
import pytest

from shared.errors import HopFailed
from shared.identity import Identity
from shared.links import Link
from shared.pool import Dialler
from shared.types import SessionId
from shared.wire import PAYLOAD_LIMIT, AnyMessage, Failure, Open, Output
from tests.chains import HOPS, Site, Text, spare
from tests.loopback import FINGERPRINT, SWARM, LocalPeer

PROMPT = 24
OnOutput = Callable[[Output, memoryview], None]
OTHER = "7" * 32


async def finish(site: Site, *texts: Text) -> None:
    """Some more tokens come of each, and then everything is free."""
    for text in texts:
        await text.decode(2)
    for text in texts:
        text.chain.close()
    await site.all_free()


def hear_through(text: Text, monkeypatch: pytest.MonkeyPatch, hear: OnOutput) -> None:
    """Have `hear` what the last hop sends in this epoch, instead of the chain."""
    assert text.chain.lineup
    monkeypatch.setattr(text.chain.lineup.edges[text.peers[-1], "outputs"], "_on_output", hear)


async def begin(site: Site) -> tuple[Text, Text]:
    """A session that has run a prompt, and a fork of it."""
    text = await site.open()
    await text.round(PROMPT)
    return text, await text.fork()


# Forks


async def test_forks_run_no_prompt_and_go_on_each_by_itself(site: Site) -> None:
    text, fork = await begin(site)
    others = [await text.fork() for _ in range(2)]
    assert [hop.tokens for hop in site.peers] == [PROMPT] * len(HOPS)
    await asyncio.gather(*(each.decode(3) for each in (text, fork, *others)))
    assert [hop.tokens for hop in site.peers] == [PROMPT + 12] * len(HOPS)
    await finish(site, fork, text, *others)


async def test_a_session_that_has_gone_on_is_forked_as_it_was(site: Site) -> None:
    text = await site.open()
    await text.round(PROMPT)
    await text.decode(3)
    await text.push(1)  # and is about to go on
    late = await text.fork(PROMPT - 2)
    await text.output()
    await late.round(5)
    await finish(site, late, text)


async def test_a_fork_outlives_its_parent_and_can_be_forked(site: Site) -> None:
    text, fork = await begin(site)
    text.chain.close()
    await fork.decode(2)
    again = await fork.fork()
    fork.chain.close()
    await finish(site, again)


@pytest.mark.parametrize("hop", HOPS)
async def test_a_hop_of_a_fork_that_dies_in_decoding_is_replaced(site: Site, hop: int) -> None:
    replacement = await spare(site, hop)
    text, fork = await begin(site)
    await fork.decode(2)
    site.peers[hop].after(1, site.peers[hop].die)
    await fork.decode(4)
    await text.decode(2)
    assert (fork.peers[hop], text.peers[hop]) == (replacement.peer, replacement.peer)
    assert {repair.epochs for repair in site.repairs} == {1}
    assert {error.peer for error in site.blamed} == {site.peers[hop].peer}
    await finish(site, text, fork)


async def test_a_hop_that_dies_while_it_is_asked_refuses_the_fork_and_not_the_parent(site: Site) -> None:
    await spare(site, 1)
    text = await site.open()
    await text.round(PROMPT)
    site.peers[1].die()
    with pytest.raises(HopFailed):
        await text.fork()
    await finish(site, text)


async def test_a_hop_without_room_refuses_and_the_others_are_free_again(site: Site) -> None:
    text = await site.open()
    await text.round(PROMPT)
    busy = site.peers[2].protocol.sessions.budget
    taken = busy.open(site.peers[2].blocks, busy.room_tokens - 50)
    with pytest.raises(HopFailed) as refused:
        await text.fork()
    assert (refused.value.code, refused.value.peer) == ("out_of_cache", site.peers[2].peer)
    busy.release(taken)
    await finish(site, text)


async def test_a_peer_that_knows_no_forks_is_not_taken_for_one(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """It ignores the field, and opens an empty session."""
    old = site.peers[1].protocol
    received = old.received

    def without_parents(link: Link, message: AnyMessage, payload: memoryview) -> None:
        received(link, msgspec.structs.replace(message, parent=None) if isinstance(message, Open) else message, payload)

    monkeypatch.setattr(old, "received", without_parents)
    text = await site.open()
    await text.round(PROMPT)
    with pytest.raises(HopFailed) as refused:
        await text.fork()
    assert (refused.value.code, refused.value.peer) == ("cannot_fork", site.peers[1].peer)
    await finish(site, text)


class Stranger:
    """What a peer says to an `Open` on a control link that is not the session's gateway's."""

    def __init__(self, site: Site, peer: LocalPeer, identity: Identity) -> None:
        self.me = identity.peer
        self._dialler = Dialler(identity, SWARM, lambda each: site.addresses[each])
        self._peer = peer
        self._said: asyncio.Queue[AnyMessage] = asyncio.Queue()

    async def hears(self, session: SessionId, length: int, blocks: tuple[int, int], reserve: int = 50) -> Failure:
        """The refusal of a fork."""
        link = await self._dialler.dial(self._peer.peer, "control")
        link.start(self)
        link.send(
            Open(
                session=OTHER, fingerprint=FINGERPRINT, blocks=blocks, upstream=self.me, downstream=self.me,
                reserve=reserve, epoch=1, parent=(session, length),
            )
        )  # fmt: skip
        while True:
            message = await asyncio.wait_for(self._said.get(), 5)
            if isinstance(message, Failure):
                link.close("enough")
                return message

    def received(self, link: Link, message: AnyMessage, payload: memoryview) -> None:
        self._said.put_nowait(message)

    def lost(self, link: Link, reason: str) -> None: ...


async def test_nobody_forks_the_session_of_another_gateway(site: Site) -> None:
    text = await site.open()
    await text.round(PROMPT)
    failure = await Stranger(site, site.peers[0], Identity.create()).hears(text.chain.session, PROMPT, (0, 1))
    assert (failure.code, failure.kept) == ("cannot_fork", False)
    assert len(site.peers[0].protocol.sessions) == 1
    await finish(site, text)


@pytest.mark.parametrize(
    ("length", "blocks", "reserve"),
    [(0, (0, 1), 50), (PROMPT + 1, (0, 1), 50), (2**31 - 1, (0, 1), 50), (PROMPT, (0, 1), PROMPT - 1)],
    ids=["nothing", "more than it has", "far more", "more than reserved"],
)
async def test_what_cannot_be_copied_is_refused(site: Site, length: int, blocks: tuple[int, int], reserve: int) -> None:
    text = await site.open()
    await text.round(PROMPT)
    asks = Stranger(site, site.peers[0], site.identity)
    assert (await asks.hears(text.chain.session, length, blocks, reserve)).code == "cannot_fork"
    assert len(site.peers[0].protocol.sessions) == 1
    await finish(site, text)


async def test_a_cache_that_is_being_copied_is_freed_when_that_is_over(site: Site) -> None:
    """The parent is closed, and the fork too, before the torch thread comes to the copy."""
    text = await site.open()
    await text.round(PROMPT)
    thread = site.peers[0].protocol.scheduler._thread
    gate, at_gate = asyncio.Event(), asyncio.Event()
    loop = asyncio.get_running_loop()

    async def wait() -> None:
        at_gate.set()
        await gate.wait()

    thread.submit(lambda: asyncio.run_coroutine_threadsafe(wait(), loop).result())
    await at_gate.wait()
    opening = asyncio.create_task(text.fork())
    sessions = site.peers[0].protocol.sessions
    await site.until(lambda: len(sessions) == 2)
    opening.cancel()
    text.chain.close()
    await site.until(lambda: len(site.peers[1].protocol.sessions) == 0)
    assert len(sessions) == 2
    gate.set()
    await asyncio.gather(opening, return_exceptions=True)
    await site.all_free()


# All rows of a round


async def test_all_rows_of_a_prompt_come_in_order(site: Site) -> None:
    text = await site.open()
    await text.push_all(PROMPT)
    await text.take_rows(0, PROMPT)
    await finish(site, text)


@pytest.mark.parametrize("hop", HOPS)
async def test_rows_come_once_each_although_a_hop_dies_between_them(site: Site, hop: int) -> None:
    await spare(site, hop)
    text = await site.open()
    site.peers[hop].after(9, site.peers[hop].die)
    await text.push_all(PROMPT)
    await text.take_rows(0, PROMPT)
    await finish(site, text)
    assert len(site.repairs) == 1


async def test_rows_that_are_rejected_come_again_from_others(site: Site) -> None:
    other = await spare(site, HOPS[-1])
    text = await site.open()
    await text.push_all(PROMPT)
    await text.take_rows(0, 8)
    liar = text.peers[-1]
    await text.chain.rows(64)
    text.chain.reject(HopFailed(liar, "not_finite", "the test says so"))
    await text.take_rows(8, PROMPT)
    assert text.peers[-1] == other.peer
    await finish(site, text)


@pytest.mark.parametrize(
    "lie",
    [
        lambda output: msgspec.structs.replace(output, position=output.position + 1),
        lambda output: msgspec.structs.replace(output, count=output.count + 100),
        lambda output: msgspec.structs.replace(output, count=output.count - 1),
        lambda output: msgspec.structs.replace(output, tensors=()),
    ],
    ids=["a gap", "more than was asked for", "another shape", "no tensor"],
)
async def test_a_last_hop_that_sends_other_rows_is_replaced(
    site: Site, lie: Callable[[Output], Output], monkeypatch: pytest.MonkeyPatch
) -> None:
    other = await spare(site, HOPS[-1])
    text = await site.open()
    on_output, liar = text.chain.on_output, text.peers[-1]

    def hear(output: Output, payload: memoryview) -> None:
        on_output(lie(output) if text.peers[-1] == liar and output.count else output, payload)

    hear_through(text, monkeypatch, hear)
    await text.push_all(PROMPT)
    await text.take_rows(0, PROMPT)
    assert text.peers[-1] == other.peer
    await finish(site, text)


@pytest.mark.parametrize(
    "grown",
    [
        lambda payload: memoryview(bytes(PAYLOAD_LIMIT)),
        lambda payload: memoryview(bytes([*payload, *bytes(5000)]))[: len(payload)],
    ],
    ids=["in its tensor", "around it"],
)
async def test_more_than_its_rows_is_not_kept_of_an_output(
    site: Site, grown: Callable[[memoryview], memoryview], monkeypatch: pytest.MonkeyPatch
) -> None:
    await spare(site, HOPS[-1])
    text = await site.open()
    on_output, kept = text.chain.on_output, list[bool]()

    def hear(output: Output, payload: memoryview) -> None:
        on_output(output, grown(payload) if output.count else payload)
        kept.append(text.chain.progress.has_rows)

    hear_through(text, monkeypatch, hear)
    await text.push_all(PROMPT)
    await text.take_rows(0, PROMPT)
    assert kept
    assert not any(kept)
    await finish(site, text)
