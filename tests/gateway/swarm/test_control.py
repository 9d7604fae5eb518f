"""What a gateway knows of a peer's cache by its control link: a real peer, and answers that never come."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
import torch

from gateway.swarm.control import Control, SessionMessage
from shared.changes import Changes
from shared.edges import DialledEdge
from shared.identity import Identity
from shared.pool import Dialler
from shared.types import PeerId, SessionId
from shared.wire import Open, Redirect
from tests.loopback import FINGERPRINT, SWARM, Addresses, LocalPeer, control_link
from tests.tiny_models import make_tiny_model

SESSION = SessionId("5" * 32)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    return make_tiny_model(tmp_path_factory.mktemp("model"), blocks=2)


class Owner:
    """A session to which nothing that is said matters."""

    def hop_said(self, peer: PeerId, message: SessionMessage) -> None: ...

    def hop_lost(self, peer: PeerId, reason: str) -> None: ...

    def hop_drains(self, peer: PeerId) -> None: ...


class Gateway:
    """A control link to a peer of 1,000 cache tokens, and news of it."""

    def __init__(self, model: Path) -> None:
        self.identity = Identity.create()
        self.addresses: Addresses = {}
        self.changes = Changes()
        self.peer = LocalPeer(self.addresses, model, "0:2", cache_tokens=1000)
        self.dialler = Dialler(self.identity, SWARM, lambda peer: self.addresses[peer])
        self.control: Control

    def place(self, epoch: int) -> dict[str, Any]:
        """Of a session whose both neighbours are this gateway."""
        me = self.identity.peer
        return {"session": SESSION, "upstream": me, "downstream": me, "epoch": epoch}

    async def until_room(self, tokens: int) -> None:
        async with asyncio.timeout(5):
            while self.control.room_tokens != tokens:
                await self.changes.wait()


@pytest.fixture
async def gateway(model: Path) -> AsyncIterator[Gateway]:
    gateway = Gateway(model)
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(gateway.peer.serving(gateway.addresses))
        link = control_link(gateway.peer.peer, gateway.dialler, gateway.changes)
        gateway.control = await stack.enter_async_context(link)
        yield gateway


async def test_what_an_open_asked_for_counts_once_though_a_redirect_has_overtaken_its_answer(gateway: Gateway) -> None:
    """A hop that is redirected before its edge stands answers the Redirect alone."""
    gateway.control.open(Open(fingerprint=FINGERPRINT, blocks=(0, 2), reserve=100, **gateway.place(1)), Owner())
    await gateway.until_room(700)  # of 800 by the peer's word, which the Open is not answered in
    gateway.control.send(Redirect(length=0, forward_from=0, **gateway.place(2)))
    link = await gateway.dialler.dial(gateway.peer.peer, "data")
    edge = DialledEdge(link, SESSION, 2, on_lost=lambda error: None)
    await edge.attach("outputs")
    await gateway.until_room(800)
    edge.detach()


async def test_a_session_that_is_released_before_it_was_answered_asks_for_nothing_any_more(gateway: Gateway) -> None:
    gateway.control.open(Open(fingerprint=FINGERPRINT, blocks=(0, 2), reserve=100, **gateway.place(1)), Owner())
    assert gateway.control.room_tokens == 800
    gateway.control.release(SESSION)
    await gateway.until_room(900)
