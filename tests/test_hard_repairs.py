"""Repairs that do not go well at once: spares that refuse, hops that say nothing for a while, lines that are slow.

Real peers, links and blocks of a tiny model, in one process; every row is compared with what one place makes of it.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from gateway.swarm.chain import LOOK_OUTPUTS
from gateway.swarm.faults import AGAIN_LIMIT
from shared.edges import Edge
from shared.errors import ChainLost, HopFailed
from shared.types import Fingerprint
from tests.chains import BLOCKS, HIDDEN, Site, Text, soon, spare
from tests.loopback import LocalPeer, Wire
from tests.test_repair import (
    PROMPT,
    assert_kept,
    begin,
    finish,
    lose_control_link,
    others,
    site_with_its_own_addresses,
    site_with_wire,
)

NEARLY_ALL = 3590  # tokens of a peer's cache, after which it has no room for a session


# Gaps and spares


async def test_a_spare_that_could_fill_two_gaps_fills_one(site: Site) -> None:
    wide, narrow = await site.add("1:4"), await spare(site, 3)
    text = await begin(site)
    for hop in (1, 3):
        site.peers[hop].die()
    await text.decode(1)
    assert text.peers == [site.peers[0].peer, wide.peer, site.peers[2].peer, narrow.peer]
    assert_kept(text, [*others(site, 1, 3), wide, narrow])
    await finish(site, text)


async def test_a_chain_with_two_gaps_that_only_one_spare_could_fill_is_given_up_for_another(site: Site) -> None:
    """The spare is one hop of another chain, with the first peer of this one."""
    await site.add("1:4")
    text = await begin(site)
    for hop in (1, 3):
        site.peers[hop].die()
    with pytest.raises(ChainLost):
        await text.decode(1)
    text.chain.close()
    await site.all_free()


@pytest.mark.parametrize("refusal", ["out_of_cache", "wrong_model"])
async def test_a_move_that_is_refused_leaves_the_stream_on_the_hop_that_drains(site: Site, refusal: str) -> None:
    unwilling = await (
        spare(site, 1) if refusal == "out_of_cache" else spare(site, 1, fingerprint=Fingerprint("0" * 64))
    )
    text = await begin(site)
    budget = unwilling.protocol.sessions.budget
    held = budget.open(unwilling.blocks, NEARLY_ALL if refusal == "out_of_cache" else 0)
    site.peers[1].protocol.drain()
    await site.until(lambda: text.chain.leaving)
    await text.decode(3)
    assert (unwilling.peer, refusal) in {(error.peer, error.code) for error in site.blamed}
    assert text.peers == [peer.peer for peer in site.peers[:BLOCKS]]
    assert_kept(text, site.peers[:BLOCKS])
    budget.release(held)
    await finish(site, text)


# A hop that frees whatever it is given


@asynccontextmanager
async def forgetful(peer: LocalPeer) -> AsyncIterator[None]:
    """As soon as a session stands on this peer and has steps, it is freed: its gateway finds nothing there."""

    async def forget() -> None:
        while True:
            for session in [each for each in peer.protocol.sessions if each.queue and each.outlet]:
                peer.protocol.close(session)
            await asyncio.sleep(0.005)

    peer.stand_still()
    forgetting = asyncio.create_task(forget())
    try:
        yield
    finally:
        forgetting.cancel()


async def test_a_hop_that_loses_the_session_after_each_line_up_is_replaced(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.swarm.patience.LEAST_S", 0.1)
    replacement = await spare(site, 1)
    text = await begin(site)
    async with forgetful(site.peers[1]):
        await text.decode(1)
    assert text.peers[1] == replacement.peer
    assert [(error.peer, error.code) for error in site.blamed] == [(site.peers[1].peer, "closed")] * (AGAIN_LIMIT + 1)
    assert text.chain.epoch == 1 + AGAIN_LIMIT + 1
    await finish(site, text)


async def test_without_a_spare_for_a_hop_that_loses_the_session_again_and_again_the_stream_ends(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.swarm.patience.LEAST_S", 0.1)
    monkeypatch.setattr("gateway.swarm.failover.LOOK_AGAIN_S", 0.1)
    monkeypatch.setattr("gateway.swarm.failover.EPOCHS_LIMIT", 4)
    text = await site.open(wait_s=0.5)
    await text.round(PROMPT)
    async with forgetful(site.peers[1]):
        with pytest.raises(HopFailed) as failure:
            await asyncio.wait_for(text.decode(1), 10)
    assert (failure.value.peer, failure.value.code) == (site.peers[1].peer, "closed")
    text.chain.close()
    await site.all_free()


# Silence


async def test_a_long_frame_on_a_slow_line_breaks_nothing(empty_site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.swarm.patience.LEAST_S", 0.3)
    site, wire = await site_with_wire(empty_site, 0)
    text = await site.open(reserve=600)
    text.chunk, tokens = 500, 500
    wire.slow_down(bytes_per_s=4 * HIDDEN * tokens / 3)  # a frame takes three seconds
    await text.round(tokens)
    assert text.chain.epoch == 1
    assert site.blamed == []
    wire.slow_down(bytes_per_s=1e9)
    await finish(site, text)


async def test_the_only_hop_of_its_blocks_goes_on_with_its_cache_when_it_was_frozen_for_a_while(
    empty_site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.swarm.patience.LEAST_S", 0.1)
    monkeypatch.setattr("gateway.swarm.hops.STATUS_S", 0.2)
    monkeypatch.setattr("gateway.swarm.failover.LOOK_AGAIN_S", 0.1)
    site, wire = await site_with_wire(empty_site, 1)
    text = await begin(site)
    wire.hold()
    waiting = asyncio.create_task(text.round(1))
    await soon(lambda: text.chain.faults.silent)
    wire.let_go()
    await waiting
    assert text.peers == [peer.peer for peer in site.peers]
    assert_kept(text, site.peers)
    await finish(site, text)


@pytest.mark.parametrize(("hop", "edge"), [(0, "steps"), (BLOCKS - 1, "outputs")])
async def test_an_edge_of_the_gateways_own_that_carries_nothing_is_made_again_on_another_link(
    empty_site: Site, monkeypatch: pytest.MonkeyPatch, hop: int, edge: Edge
) -> None:
    monkeypatch.setattr("gateway.swarm.patience.LEAST_S", 0.1)
    monkeypatch.setattr("gateway.swarm.faults.QUIET_S", 0.2)
    site, wire, text = await begin_over_a_wire_of_the_gateway(empty_site, hop)
    await spare(site, hop)
    assert text.chain.lineup
    silent = text.chain.lineup.edges[site.peers[hop].peer, edge].link
    wire.hold()
    await text.decode(1)
    assert text.peers == [peer.peer for peer in site.peers[:BLOCKS]]
    assert [(error.code, error.peer) for error in site.blamed] == [("edge_silent", site.peers[hop].peer)]
    assert silent.closed
    assert_kept(text, site.peers[:BLOCKS])
    wire.let_go()
    await finish(site, text)


async def begin_over_a_wire_of_the_gateway(site: Site, hop: int) -> tuple[Site, Wire, Text]:
    """A session whose links from the gateway to one hop lead over a wire; those that are made later do not."""
    site, _ = await site_with_its_own_addresses(site, BLOCKS - 2)
    peer = site.peers[hop].peer
    wire, direct = await site.wire_to(site.peers[hop]), site.addresses[peer]
    site.addresses[peer] = [wire.address]
    text = await begin(site)
    site.addresses[peer] = direct
    return site, wire, text


# What was promised


async def test_what_a_hop_holds_is_remembered_while_its_control_link_is_lost(site: Site) -> None:
    text = await begin(site)
    reserve, budget = text.chain.reserve, site.peers[1].protocol.sessions.budget
    held = budget.open(site.peers[1].blocks, 3000)
    assert not await text.chain.extend(2000)
    lose_control_link(site.peers[1])
    await text.decode(2)
    assert text.chain.reserve == reserve
    budget.release(held)
    await finish(site, text)


async def test_a_chain_with_a_hop_that_holds_less_than_it_promised_is_given_up_and_nobody_is_blamed(
    site: Site,
) -> None:
    text = await begin(site)
    (session,) = site.peers[2].protocol.sessions
    session.reserve = len(text)
    with pytest.raises(ChainLost):
        await text.decode(1)
    assert site.blamed == []
    text.chain.close()
    await site.all_free()


# Hops that had better be left


async def test_that_a_hop_was_slow_is_forgotten_at_the_next_look(site: Site) -> None:
    text = await begin(site)
    text.chain.leaving[site.peers[1].peer] = "slow"
    await text.decode(LOOK_OUTPUTS)
    assert not text.chain.leaving
    await finish(site, text)


async def test_a_slow_hop_without_a_spare_does_not_keep_one_that_drains_from_being_left(site: Site) -> None:
    replacement = await spare(site, 2)
    text = await begin(site)
    text.chain.leaving[site.peers[0].peer] = "slow"
    site.peers[2].protocol.drain()
    await site.until(lambda: site.peers[2].peer in text.chain.leaving)
    await text.decode(1)
    assert text.peers[2] == replacement.peer
    await asyncio.wait_for(site.peers[2].protocol.emptied(), 5)
    await finish(site, text)
    assert [(repair.code, repair.is_move) for repair in site.repairs] == [("drained", True)]
