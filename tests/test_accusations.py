"""What hops say of each other, and whom a gateway believes: no word costs more than a pause, or harms the innocent.

Real peers, links and blocks of a tiny model, in one process.
"""

from __future__ import annotations

import asyncio
from typing import Any, cast

import pytest
import torch

from gateway.swarm.blame import blame_for
from gateway.swarm.chain import TROUBLES_LIMIT
from shared.links import Link
from shared.tensors import encode_hidden
from shared.types import PeerId
from shared.wire import Failure, Step
from tests.chains import HIDDEN, Site, Text, soon, spare
from tests.loopback import LocalPeer
from tests.test_repair import assert_kept, begin, finish, others


def says(site: Site, text: Text, teller: LocalPeer, code: str, of: PeerId, **about: Any) -> None:
    """A hop tells the gateway that another one failed it, and that it keeps the session."""
    about = {"epoch": text.chain.epoch, "kept": True, **about}
    failure = Failure(code=code, reason="it says so", session=text.chain.session, peer=of, **about)
    site.controls[teller.peer].received(cast(Link, None), failure, memoryview(b""))


def blamed(site: Site) -> set[PeerId]:
    """All against whom something is held."""
    blames = [blame for error in site.blamed if (blame := blame_for(error))]
    return {peer for blame in blames for peer in blame.peers if peer in site.controls}


@pytest.mark.parametrize("accused", ["a hop far from it", "a peer beyond the route", "the gateway"])
@pytest.mark.parametrize("code", ["not_finite", "unreachable"])
async def test_a_hop_that_accuses_who_is_not_beside_it_is_at_fault_itself(site: Site, accused: str, code: str) -> None:
    replacement, bystander = await spare(site, 1), await spare(site, 3)
    far = {"a hop far from it": site.peers[3].peer, "a peer beyond the route": bystander.peer}
    text = await begin(site)
    says(site, text, site.peers[1], code, far.get(accused, site.identity.peer))
    await text.decode(1)
    assert text.peers[1] == replacement.peer
    assert blamed(site) == {site.peers[1].peer}
    assert not site.relayed._learnt_at
    assert_kept(text, [*others(site, 1), replacement])
    await finish(site, text)


async def test_a_hop_that_accuses_the_gateway_beside_it_is_at_fault_itself(site: Site) -> None:
    replacement = await spare(site, 0)
    text = await begin(site)
    says(site, text, site.peers[0], "not_finite", site.identity.peer)
    await text.decode(1)
    assert text.peers[0] == replacement.peer
    assert blamed(site) == {site.peers[0].peer}
    await finish(site, text)


async def test_what_a_hop_says_of_steps_that_were_relayed_stands_against_it_and_who_made_them(site: Site) -> None:
    maker, teller = site.peers[1].peer, site.peers[2].peer
    replacement = await spare(site, 1)
    site.relayed.add((maker, teller))
    text = await begin(site)
    says(site, text, site.peers[2], "not_finite", site.identity.peer)
    await text.decode(1)
    assert text.peers[1] == replacement.peer
    assert blamed(site) == {maker, teller}
    await finish(site, text)


async def test_failures_without_end_are_heard_a_few_times(site: Site) -> None:
    replacement = await spare(site, 1)
    text = await begin(site)
    for _ in range(100 * TROUBLES_LIMIT):
        says(site, text, site.peers[1], "gap", site.peers[1].peer)
    assert len(text.chain.troubles) == TROUBLES_LIMIT
    await text.decode(1)
    assert text.peers[1] == replacement.peer
    assert len(site.blamed) == TROUBLES_LIMIT
    await finish(site, text)


async def test_a_relayed_step_that_is_not_what_it_says_is_its_makers_fault(site: Site) -> None:
    """It ends at the gateway: the next hop would hold it against whom it came from."""
    maker, receiver = site.peers[1], site.peers[2]
    replacement = await spare(site, 1)
    site.relayed.add((maker.peer, receiver.peer))
    text = await begin(site)
    send_bytes_that_are_no_step(maker, text)
    await soon(lambda: text.chain.troubles)
    await text.decode(1)
    assert text.peers[1] == replacement.peer
    assert blamed(site) == {maker.peer}
    assert not receiver.listener.refusals.counted
    assert_kept(text, [*others(site, 1), replacement])
    await finish(site, text)


def send_bytes_that_are_no_step(peer: LocalPeer, text: Text) -> None:
    """On the edge that leads from this peer to the gateway."""
    (session,) = peer.protocol.sessions
    assert session.outlet
    (spec,), data = encode_hidden(torch.randn(1, HIDDEN))
    step = Step(
        session=session.id,
        epoch=text.chain.epoch,
        round=text.chain.progress.round + 1,
        position=len(text),
        count=2,
        returns="none",
        tensors=(spec,),
    )
    session.outlet.send(step, data)


async def test_what_hops_say_of_a_line_up_that_failed_blames_nobody_and_its_spare_is_taken_when_it_has_room(
    site: Site,
) -> None:
    full = await spare(site, 1)
    text = await begin(site)
    budget = full.protocol.sessions.budget
    held = budget.open(full.blocks, 3590)  # of which the gateway is not told before the next Pong
    failing = text.chain.epoch + 1
    site.peers[1].die()
    waiting = asyncio.create_task(text.round(1))
    await soon(lambda: "out_of_cache" in {error.code for error in site.blamed})
    for code in ("deadline", "refused", "edge_lost"):
        says(site, text, site.peers[0], code, full.peer, epoch=failing)
    assert not text.chain.troubles
    budget.release(held)
    await waiting
    assert text.peers[1] == full.peer
    assert {error.code for error in site.blamed} <= {"lost", "edge_lost", "out_of_cache"}
    assert full.peer not in blamed(site)
    await finish(site, text)
