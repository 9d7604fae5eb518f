"""Which peers a gateway leaves alone, and when it tries them all the same: real peers, a table without libp2p."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import torch

from gateway.swarm.routing import choose_route
from shared.errors import HopFailed
from shared.shunned import SLIP_S, SLIPS
from shared.types import BlockRange, PeerId
from tests.gateway.swarm.test_opening import BLOCKS, MODEL, RESERVE, Client, Site, running_site
from tests.loopback import FINGERPRINT
from tests.shared.clock import Clock
from tests.tiny_models import make_tiny_model

ALL = BlockRange(0, BLOCKS)


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    return make_tiny_model(tmp_path_factory.mktemp("model"), blocks=BLOCKS)


@pytest.fixture
async def site(directory: Path, tmp_path: Path) -> AsyncIterator[Site]:
    async with running_site(directory, tmp_path) as site:
        yield site


@pytest.fixture
def clock(site: Site) -> Clock:
    """The clock of those who are shunned at this site."""
    clock = Clock()
    site.network.refusals.peers._clock = clock
    return clock


def candidates(site: Site) -> list[PeerId]:
    return [each.peer for each in site.peers.candidates(FINGERPRINT)]


def route(site: Site) -> list[PeerId]:
    return [span.peer for span in choose_route(site.peers.candidates(FINGERPRINT), MODEL.id, ALL, RESERVE)]


def fail(site: Site, peer: PeerId, code: str, teller: PeerId | None = None) -> None:
    site.peers.blame(HopFailed(peer, code, "this is what it did", teller))


async def test_a_peer_that_claims_blocks_that_it_does_not_hold_is_left_alone_for_a_while(
    site: Site, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    liar, honest = await site.add("0:2", tokens_per_s=1000), await site.add("0:4")
    site.announce(liar, tokens_per_s=1000, blocks=ALL)
    assert route(site) == [liar.identity.peer]
    client = Client(site, opened := [])
    await site.until(lambda: opened)
    client.may_end.set()
    await asyncio.wait_for(client.task, 5)
    assert route(site) == [honest.identity.peer]
    assert site.network.refusals.counted == {"false_claim": 1}
    assert caplog.text.count("is shunned") == 1
    assert liar.identity.peer in [each.peer for each in site.peers.announced()]
    clock.now += 5
    assert route(site) == [liar.identity.peer]


async def test_many_sessions_that_fail_on_a_peer_at_once_shun_it_once(
    site: Site, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    peer = (await site.add("0:4")).identity.peer
    with caplog.at_level(logging.WARNING):
        for _ in range(100):
            fail(site, peer, "not_finite")
    assert site.network.refusals.counted == {"not_finite": 100}
    assert site.network.refusals.peers.seconds(peer) == 5
    assert caplog.text.count("is shunned") == 1


async def test_a_part_that_shunned_peers_alone_hold_is_tried_with_the_one_that_is_shunned_for_the_shortest(
    site: Site, clock: Clock
) -> None:
    fast = (await site.add("0:2", tokens_per_s=1000)).identity.peer
    slow = (await site.add("0:2", tokens_per_s=1)).identity.peer
    rest = (await site.add("2:4")).identity.peer
    fail(site, fast, "forward")
    clock.now += 5
    fail(site, fast, "forward")
    fail(site, slow, "forward")
    assert set(candidates(site)) == {fast, slow, rest}
    assert route(site) == [slow, rest]
    clock.now += 5
    assert candidates(site).count(fast) == 0
    clock.now += 5
    assert route(site) == [fast, rest]


async def test_a_longer_way_around_a_shunned_peer_is_taken_where_there_is_one(site: Site, clock: Clock) -> None:
    whole = (await site.add("0:4", tokens_per_s=1000)).identity.peer
    parts = [(await site.add(blocks, tokens_per_s=1)).identity.peer for blocks in ("0:2", "2:4")]
    assert route(site) == [whole]
    fail(site, whole, "deadline")
    assert route(site) == parts


@pytest.mark.parametrize("code", ["out_of_cache", "leaving", "cache_overrun", "lost", "edge_lost"])
async def test_a_peer_is_not_shunned_for_what_may_happen_to_anybody_once(site: Site, clock: Clock, code: str) -> None:
    peer = (await site.add("0:4")).identity.peer
    for _ in range(50):
        fail(site, peer, code)
    assert peer not in site.network.refusals.peers


async def test_a_peer_that_is_lost_again_and_again_is_shunned(site: Site, clock: Clock) -> None:
    peer = (await site.add("0:4")).identity.peer
    for _ in range(SLIPS):
        assert peer not in site.network.refusals.peers
        clock.now += SLIP_S
        fail(site, peer, "lost")
    assert peer in site.network.refusals.peers


async def test_a_hop_that_accuses_others_is_shunned_for_longer_than_any_of_them(site: Site, clock: Clock) -> None:
    others = [(await site.add("0:2")).identity.peer for _ in range(3)]
    accuser = (await site.add("2:4")).identity.peer
    shunned, seconds = site.network.refusals.peers, []
    for other in others:
        fail(site, other, "not_finite", teller=accuser)
        assert shunned.seconds(other) == 5
        seconds.append(shunned.seconds(accuser))
        clock.now += seconds[-1]
    assert seconds == [5, 10, 20]


async def test_a_hop_that_accuses_the_gateway_is_shunned_and_the_gateway_is_not(site: Site, clock: Clock) -> None:
    peer = (await site.add("0:4")).identity.peer
    fail(site, site._identity.peer, "not_finite", teller=peer)
    assert peer in site.network.refusals.peers
    assert site._identity.peer not in site.network.refusals.peers
