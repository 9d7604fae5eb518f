"""Chains that lose hops and go on: real peers, links and blocks of a tiny model, in one process.

Every row is compared with what all blocks in one place make of the same inputs.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Iterable
from contextlib import AsyncExitStack
from typing import Any, cast

import pytest

from gateway.swarm.faults import Faults
from shared.edges import DialledEdge
from shared.errors import ChainLost, HopFailed
from shared.links import Link
from shared.types import BlockRange, Fingerprint, SessionId, Span
from shared.wire import Failure, Message, Opened, Output, Redirected, Report
from tests.chains import BLOCKS, HIDDEN, HOPS, Site, Text, TinyModel, soon, spare
from tests.loopback import Addresses, LocalPeer, Wire
from tests.tiny_models import make_tiny_model

PROMPT = 24
ROW_BYTES = 4 * HIDDEN
FORWARD = 12  # tokens at most in one forward of these peers


async def begin(site: Site, *hops: LocalPeer) -> Text:
    """A session that has run a prompt and a few tokens."""
    text = await site.open(*hops)
    await text.round(PROMPT)
    await text.decode(2)
    return text


async def finish(site: Site, text: Text) -> None:
    """Some more tokens come, and then everything is free."""
    await text.decode(3)
    text.chain.close()
    await site.all_free()


def assert_kept(text: Text, hops: Iterable[LocalPeer], again: int = 1) -> None:
    """These hops ran each token once, but for `again` that each new epoch may have interrupted."""
    assert text.chain.epoch <= 5
    for hop in hops:
        assert len(text) <= hop.tokens <= len(text) + again * (text.chain.epoch - 1)


def others(site: Site, *hops: int) -> list[LocalPeer]:
    """The first hops without these."""
    return [site.peers[hop] for hop in HOPS if hop not in hops]


# One hop dies


def slow_beyond(first: int, cases: Iterable[Any]) -> list[Any]:
    """The first of these cases, and the others for `make slow`."""
    return [case if index < first else pytest.param(case, marks=pytest.mark.slow) for index, case in enumerate(cases)]


ENDS_FIRST = slow_beyond(2, (HOPS[0], HOPS[-1], *HOPS[1:-1]))
PAIRS = slow_beyond(3, ((0, 3), (1, 2), (0, 1), (0, 2), (1, 3), (2, 3)))


@pytest.mark.parametrize("hop", HOPS)
async def test_a_hop_that_dies_in_a_prefill_is_replaced(site: Site, hop: int) -> None:
    replacement = await spare(site, hop)
    text = await site.open()
    site.peers[hop].after(8, site.peers[hop].die)
    await text.round(PROMPT)
    assert text.peers[hop] == replacement.peer
    assert_kept(text, [*others(site, hop), replacement], again=FORWARD)
    await finish(site, text)


@pytest.mark.parametrize("hop", HOPS)
async def test_a_hop_that_dies_in_decoding_costs_the_others_one_step(site: Site, hop: int) -> None:
    replacement = await spare(site, hop)
    text = await begin(site)
    site.peers[hop].after(2, site.peers[hop].die)
    await text.decode(4)
    assert text.peers[hop] == replacement.peer
    assert_kept(text, [*others(site, hop), replacement])
    await finish(site, text)
    assert [repair.replayed_tokens > PROMPT for repair in site.repairs] == [True]


@pytest.mark.parametrize("hop", ENDS_FIRST)
async def test_a_hop_that_dies_in_steps_of_several_tokens_costs_the_others_one_step(site: Site, hop: int) -> None:
    replacement = await spare(site, hop)
    text = await begin(site)
    text.chunk = 5
    site.peers[hop].after(10, site.peers[hop].die)
    for _ in range(4):
        await text.round(5)
    assert text.peers[hop] == replacement.peer
    assert_kept(text, [*others(site, hop), replacement], again=5)
    await finish(site, text)


@pytest.mark.parametrize("hop", ENDS_FIRST)
async def test_a_hop_that_dies_when_it_has_run_a_rollback_is_replaced(site: Site, hop: int) -> None:
    await spare(site, hop)
    text = await begin(site)
    site.peers[hop].after(1, site.peers[hop].die)
    await text.round(4, position=PROMPT - 3)
    await finish(site, text)
    assert len(site.repairs) == 1


@pytest.mark.parametrize("hop", ENDS_FIRST)
async def test_a_rollback_that_dead_hops_have_not_seen_is_made_up_for(site: Site, hop: int) -> None:
    """What the others say they have was made before the rollback: of some of it, from tokens that are gone."""
    await spare(site, hop)
    text = await begin(site)
    site.peers[hop].die()
    await text.round(4, position=PROMPT - 3)
    await finish(site, text)


# Several


@pytest.mark.parametrize("pair", PAIRS)
async def test_two_hops_at_once_are_replaced(site: Site, pair: tuple[int, int]) -> None:
    replacements = [await spare(site, hop) for hop in pair]
    text = await begin(site)
    for hop in pair:
        site.peers[hop].die()
    await text.decode(1)
    assert_kept(text, [*others(site, *pair), *replacements])
    await finish(site, text)


async def test_all_hops_but_one_are_replaced(site: Site) -> None:
    for hop in (0, 1, 3):
        await spare(site, hop)
    text = await begin(site)
    for hop in (0, 1, 3):
        site.peers[hop].die()
    await text.decode(1)
    assert_kept(text, [site.peers[2]])
    await finish(site, text)


async def test_a_replacement_that_dies_as_soon_as_it_is_asked_is_replaced(site: Site) -> None:
    first, second = await spare(site, 1), await spare(site, 1)
    text = await begin(site)
    site.peers[1].die()
    waiting = asyncio.create_task(text.round(1))
    await site.until(lambda: len(first.protocol.sessions))
    first.die()
    await waiting
    assert text.peers[1] == second.peer
    assert_kept(text, others(site, 1))
    await finish(site, text)


@pytest.mark.parametrize("hop", ENDS_FIRST)
async def test_a_replacement_that_dies_in_its_replay_is_replaced(site: Site, hop: int) -> None:
    first, second = await spare(site, hop), await spare(site, hop)
    text = await begin(site)
    first.after(8, first.die)
    site.peers[hop].die()
    await text.round(1)
    assert text.peers[hop] == second.peer
    assert_kept(text, others(site, hop))
    await finish(site, text)


async def test_a_hop_that_dies_while_another_is_replaced_is_replaced_too(site: Site) -> None:
    first, second = await spare(site, 1), await spare(site, 2)
    text = await begin(site)
    first.after(8, site.peers[2].die)
    site.peers[1].die()
    await text.round(1)
    assert text.peers[1:3] == [first.peer, second.peer]
    assert_kept(text, others(site, 1, 2))
    await finish(site, text)


# What is kept


async def test_without_an_outbox_the_hop_runs_again_what_the_one_before_it_sends(site: Site) -> None:
    await spare(site, 3)
    keep_nothing_sent(site.peers[2])
    text = await begin(site)
    site.peers[3].die()
    await text.round(1)
    assert_kept(text, others(site, 2, 3))
    assert_kept(text, [site.peers[2]], again=len(text))
    await finish(site, text)


async def test_without_any_outbox_the_token_ids_are_run_again(site: Site) -> None:
    replacement = await spare(site, 3)
    for peer in site.peers:
        keep_nothing_sent(peer)
    text = await begin(site)
    site.peers[3].die()
    await text.round(1)
    assert all(peer.tokens >= 2 * len(text) - 2 for peer in others(site, 3))
    assert_kept(text, [replacement])
    await finish(site, text)


async def test_what_an_outbox_has_kept_since_it_was_dropped_is_of_use(site: Site) -> None:
    """Hop 1 lacks the rows of the prompt; hop 2 is alive, and needs none of them."""
    await spare(site, 3)
    text = await begin(site)
    next(iter(site.peers[1].protocol.sessions)).outbox.drop()
    site.peers[3].die()
    await text.round(1)
    assert_kept(text, others(site, 3))
    await finish(site, text)


@pytest.mark.parametrize("hop", ENDS_FIRST)
async def test_outboxes_that_are_dropped_now_and_then_give_what_they_have(site: Site, hop: int) -> None:
    await spare(site, hop)
    for peer in site.peers:
        peer.protocol.sessions.outboxes.total = 10 * ROW_BYTES
    text = await begin(site)
    text.chunk = 3
    await text.round(7)
    site.peers[hop].after(3, site.peers[hop].die)
    await text.round(7)
    await finish(site, text)
    assert len(site.repairs) == 1


def keep_nothing_sent(peer: LocalPeer) -> None:
    peer.protocol.sessions.outboxes.total = 0


@pytest.mark.parametrize("family", ["gemma3_text", "cohere2"])
async def test_sliding_windows_are_replayed_and_crops_deeper_than_they_hold_begin_anew(
    tmp_path_factory: pytest.TempPathFactory, family: str
) -> None:
    directory = make_tiny_model(tmp_path_factory.mktemp(family), family, blocks=BLOCKS, context=4096)
    async with AsyncExitStack() as stack:
        site = Site(TinyModel(directory, BLOCKS), stack)
        for block in (*HOPS, 1):
            await spare(site, block)
        text = await site.open(reserve=1400)
        text.chunk = 250
        await text.round(1200)
        assert max(map(shallowest, site.peers[:BLOCKS])) > PROMPT
        site.peers[1].die()
        await text.decode(2)
        assert_kept(text, [*others(site, 1), site.peers[BLOCKS]])
        await text.round(3, position=PROMPT)
        await finish(site, text)
        assert [repair.code for repair in site.repairs] == ["lost", "crop_too_deep"]
        site.pool.close()


def shallowest(peer: LocalPeer) -> int:
    return next(iter(peer.protocol.sessions)).cache.shallowest


# Faults that say nothing


@pytest.mark.parametrize("hop", HOPS)
async def test_a_frozen_hop_is_replaced_and_changes_nothing_when_it_wakes(
    empty_site: Site, hop: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.swarm.control.PING_S", 0.1)
    monkeypatch.setattr("gateway.swarm.control.SILENCE_S", 0.5)
    site, wire = await site_with_wire(empty_site, hop)
    replacement, victim = await spare(site, hop), site.peers[hop]
    text = await begin(site)
    session = next(iter(victim.protocol.sessions))
    victim.stand_still()
    waiting = asyncio.create_task(text.round(1))
    await soon(lambda: session.queue)
    wire.hold()
    await waiting
    assert text.peers[hop] == replacement.peer
    victim.go_on()
    wire.let_go()
    await soon(lambda: not session.queue)
    if hop < BLOCKS - 1:
        follower = next(iter(site.peers[hop + 1].protocol.sessions))
        await soon(lambda: follower.cursor.dropped == 1)
    await site.until(lambda: site.controls[victim.peer].connected)
    await text.decode(3)
    assert len(site.repairs) == 1
    victim.protocol.close(session)  # nobody names it any more
    await finish(site, text)


async def site_with_wire(site: Site, hop: int) -> tuple[Site, Wire]:
    """A peer for each block; one of them can be reached over a wire alone."""
    for block in HOPS:
        peer = await spare(site, block, linked=block != hop)
    peer = site.peers[hop]
    wire = await site.wire_to(peer)
    site.addresses[peer.peer] = [wire.address]
    await site.link(peer)
    return site, wire


@pytest.mark.parametrize("hop", HOPS)
async def test_a_hop_that_takes_steps_and_never_answers_is_found(
    site: Site, hop: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.swarm.patience.LEAST_S", 0.2)
    await spare(site, hop)
    text = await begin(site)
    site.peers[hop].stand_still()
    await text.round(1)
    assert [(error.code, error.peer) for error in site.blamed] == [("deadline", site.peers[hop].peer)]
    await finish(site, text)


async def test_an_edge_that_swallows_frames_leads_through_the_gateway_and_caches_are_kept(
    empty_site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.swarm.patience.LEAST_S", 0.2)
    site, reaches = await site_with_its_own_addresses(empty_site, 1)
    wire = await site.wire_to(site.peers[2])
    reaches[site.peers[2].peer] = [wire.address]
    text = await begin(site)
    wire.hold()
    await text.decode(2)
    assert (site.peers[1].peer, site.peers[2].peer) in site.relayed
    assert_kept(text, site.peers)
    wire.let_go()
    await finish(site, text)


async def site_with_its_own_addresses(site: Site, hop: int) -> tuple[Site, Addresses]:
    """A peer for each block; one of them has addresses of its own."""
    reaches: Addresses = {}
    for block in HOPS:
        await spare(site, block, reaches=reaches if block == hop else None)
    reaches.update(site.addresses)
    return site, reaches


async def test_an_edge_that_cannot_be_dialled_leads_through_the_gateway(empty_site: Site) -> None:
    site, reaches = await site_with_its_own_addresses(empty_site, 1)
    reaches[site.peers[2].peer] = [("127.0.0.1", 1)]
    with pytest.raises(HopFailed) as failure:
        await site.open()
    Faults(site.identity.peer, site.relayed).judge(
        failure.value, tuple(Span(peer.peer, peer.blocks) for peer in site.peers)
    )
    text = await begin(site)
    assert_kept(text, site.peers)
    await finish(site, text)


async def test_a_hop_beside_a_relayed_edge_is_replaced(empty_site: Site) -> None:
    site, reaches = await site_with_its_own_addresses(empty_site, 1)
    replacement = await spare(site, 2)
    reaches[replacement.peer] = reaches[site.peers[2].peer] = [("127.0.0.1", 1)]
    site.relayed.add((site.peers[1].peer, site.peers[2].peer))
    text = await begin(site)
    site.peers[2].die()
    await text.round(1)
    assert (site.peers[1].peer, replacement.peer) in site.relayed
    assert_kept(text, [*others(site, 2), replacement])
    await finish(site, text)


async def test_late_words_of_a_hop_that_was_replaced_change_nothing(site: Site) -> None:
    await spare(site, 1)
    text = await begin(site)
    site.peers[1].die()
    await text.round(1)
    route, epoch = text.chain.route, text.chain.epoch
    for message in late_words(text.chain.session):
        site.controls[site.peers[1].peer].received(cast(Link, None), message, memoryview(b""))
    for message in late_words(text.chain.session)[2:4]:
        site.controls[site.peers[2].peer].received(cast(Link, None), message, memoryview(b""))
    assert text.chain.lineup
    edge = text.chain.lineup.edges[text.chain.last_peer, "outputs"]
    output = Output(session=text.chain.session, epoch=1, round=99, position=len(text), count=0)
    edge.received(edge.link, output, memoryview(b""))
    await text.round(1)
    assert (text.chain.route, text.chain.epoch) == (route, epoch)
    await finish(site, text)


def late_words(session: str) -> list[Any]:
    """What a hop of the first epoch may still say."""
    report = {"round": 1, "length": 5, "shallowest": 0, "outbox_from": 0, "queued": 0}
    pace = {"heard_ms": 0, "forward_ms": 0, "forwards": 3}
    return [
        Opened(session=session),
        Redirected(session=session, epoch=1),
        Failure(code="edge_lost", reason="a neighbour was lost", session=session, epoch=1, kept=True),
        Report(session=session, number=1, epoch=1, running=False, blocked=False, **report, **pace),
        Failure(code="closed", reason="no such session", session=session),
    ]


async def test_an_output_of_the_epoch_before_is_not_acknowledged_in_the_next(site: Site) -> None:
    """A link serves the same session again, and what was on its way is no part of the new window."""
    heard: list[Message] = []
    link = await site.pool.acquire(site.peers[0].peer)
    session = SessionId("5" * 32)
    edge = DialledEdge(link, session, 2, on_output=lambda *said: heard.append(said[0]), on_lost=lambda error: None)
    late = Output(session=session, epoch=1, round=1, position=5, count=1)
    edge.received(link, late, memoryview(bytes(4 * HIDDEN)))
    assert heard == []
    edge.detach()


# Spares


async def test_a_gap_is_filled_by_two_spares_together(empty_site: Site) -> None:
    hops = [await empty_site.add(blocks) for blocks in ("0:1", "1:3", "3:4")]
    spares = [await empty_site.add(blocks) for blocks in ("1:2", "2:3")]
    text = await begin(empty_site, *hops)
    hops[1].die()
    await text.round(1)
    assert text.peers[1:3] == [spare.peer for spare in spares]
    assert_kept(text, [hops[0], hops[2], *spares])
    await finish(empty_site, text)


async def test_two_hops_are_replaced_by_one(site: Site) -> None:
    replacement = await site.add("1:3")
    text = await begin(site)
    for hop in (1, 2):
        site.peers[hop].die()
    await text.round(1)
    assert text.peers == [site.peers[0].peer, replacement.peer, site.peers[3].peer]
    assert_kept(text, [*others(site, 1, 2), replacement])
    await finish(site, text)


async def test_a_spare_of_another_model_is_passed_over(site: Site) -> None:
    other, right = await spare(site, 1, fingerprint=Fingerprint("0" * 64)), await spare(site, 1)
    text = await begin(site)
    site.peers[1].die()
    await text.round(1)
    assert text.peers[1] == right.peer
    assert (other.peer, "wrong_model") in {(error.peer, error.code) for error in site.blamed}
    await finish(site, text)


async def test_a_spare_that_turns_out_to_be_full_is_passed_over(site: Site) -> None:
    full, right = await spare(site, 1), await spare(site, 1)
    text = await begin(site)
    budget = full.protocol.sessions.budget
    held = budget.open(full.blocks, 3590)  # of which the gateway is not told before the next Pong
    site.peers[1].die()
    await text.round(1)
    assert text.peers[1] == right.peer
    assert (full.peer, "out_of_cache") in {(error.peer, error.code) for error in site.blamed}
    budget.release(held)
    await finish(site, text)


async def test_without_a_spare_a_chain_waits_for_one(site: Site) -> None:
    text = await begin(site)
    site.peers[2].die()
    waiting = asyncio.create_task(text.round(1))
    await site.until(lambda: text.chain.repair)
    replacement = await spare(site, 2)
    await waiting
    assert_kept(text, [*others(site, 2), replacement])
    await finish(site, text)


async def test_without_a_spare_in_time_a_chain_fails_and_says_what_is_missing(site: Site) -> None:
    text = await site.open(wait_s=0.5)
    site.peers[2].die()
    began = time.monotonic()
    with pytest.raises(HopFailed, match=r"no other peers took its place within 0.5 s: .*2:3") as failure:
        await text.round(PROMPT)
    assert failure.value.peer == site.peers[2].peer
    assert time.monotonic() - began < 0.5 + 1.0 + 2
    text.chain.close()
    await site.all_free()


async def test_a_chain_whose_hops_would_have_to_share_their_blocks_anew_is_lost(empty_site: Site) -> None:
    wide = [await empty_site.add("0:2"), await empty_site.add("1:4")]
    text = await empty_site.open_route([Span(wide[0].peer, BlockRange(0, 2)), Span(wide[1].peer, BlockRange(2, 4))])
    await text.round(PROMPT)
    await empty_site.add("0:1")
    wide[0].die()
    with pytest.raises(ChainLost):
        await text.round(1)
    text.chain.close()
    await empty_site.all_free()


async def test_a_hop_whose_control_link_comes_back_goes_on_with_its_cache(site: Site) -> None:
    text = await begin(site)
    lose_control_link(site.peers[1])
    await text.decode(2)
    assert_kept(text, site.peers)
    await finish(site, text)


def lose_control_link(peer: LocalPeer) -> None:
    for link in [each for each in peer.listener.links if each.role == "control"]:
        link.abort("the test pulls the plug")


async def test_a_hop_that_has_freed_the_session_when_it_comes_back_is_opened_anew(site: Site) -> None:
    text = await begin(site)
    lose_control_link(site.peers[1])
    site.peers[1].protocol.close(next(iter(site.peers[1].protocol.sessions)))
    await text.round(1)
    assert_kept(text, others(site, 1))
    await finish(site, text)
    assert {error.code for error in site.blamed} <= {"lost", "closed"}


async def test_a_hop_that_was_left_can_take_its_place_again(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.swarm.patience.LEAST_S", 0.2)
    replacement = await spare(site, 1)
    text = await begin(site)
    site.peers[1].stand_still()
    await text.round(1)
    site.peers[1].go_on()
    await text.round(1)
    replacement.die()
    await text.round(1)
    assert text.peers[1] == site.peers[1].peer
    await finish(site, text)


# Leaving


@pytest.mark.parametrize("hop", ENDS_FIRST)
async def test_a_draining_hop_is_left_while_it_serves(site: Site, hop: int) -> None:
    text = await begin(site)
    site.peers[hop].protocol.drain()
    await site.until(lambda: text.chain.leaving)
    await text.decode(2)
    assert text.peers[hop] == site.peers[hop].peer  # there is no other
    replacement = await spare(site, hop)
    text.chain.move_after = 0.0
    await text.decode(2)
    await asyncio.wait_for(site.peers[hop].protocol.emptied(), 5)
    assert text.peers[hop] == replacement.peer
    assert_kept(text, [*others(site, hop), replacement])
    await finish(site, text)
    assert [(repair.code, repair.is_move) for repair in site.repairs] == [("drained", True)]


async def test_a_chain_that_is_closed_while_it_recovers_frees_everything(site: Site) -> None:
    replacement = await spare(site, 1)
    text = await begin(site)
    site.peers[1].die()
    waiting = asyncio.create_task(text.round(1))
    await site.until(lambda: len(replacement.protocol.sessions))
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    text.chain.close()
    await site.all_free()


# All of it together


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in (1, 2))])
async def test_any_mixture_of_faults_costs_pauses_alone(site: Site, seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.swarm.patience.LEAST_S", 0.3)
    chance = random.Random(seed)
    text = await begin(site)
    for _ in range(6):
        for block in HOPS:
            await spare(site, block)
        used = [peer for peer in site.peers if peer.peer in text.peers]
        for victim in chance.sample(used, chance.choice([0, 1, 2])):
            chance.choice([victim.die, victim.stand_still, victim.protocol.drain, dies_late(victim)])()
        await text.round(chance.choice([1, 5]), position=chance.choice([None, None, PROMPT // 2]))
    await finish(site, text)


def dies_late(peer: LocalPeer) -> Callable[[], None]:
    """A fault that comes when it has run some more tokens."""
    return lambda: peer.after(3, peer.die)
