"""What a peer does with a sender that breaks the protocol on a session's edge: a real peer, and a gateway that lies."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import AsyncIterator
from pathlib import Path
from typing import TypeVar

import msgspec
import pytest
import torch

from shared.edges import DialledEdge
from shared.errors import Refused
from shared.handshake import dial
from shared.links import Link, Role
from shared.tensors import encode_hidden
from shared.wire import HEADER, LENGTH, Attach, Failure, Message, Opened, Output, Ping, Pong, Step, encode_frame
from tests.loopback import SWARM, Addresses, LocalPeer
from tests.peer.test_protocol import SESSION, Gateway
from tests.tiny_models import make_tiny_model

M = TypeVar("M", bound=Message)
OTHER = "6" * 32
HIDDEN = 64
SPECS, DATA = encode_hidden(torch.ones(1, HIDDEN))
STEP = Step(session=SESSION, epoch=1, round=1, position=0, count=1, returns="last", tensors=SPECS)
FRAME = encode_frame(STEP, DATA)


def changed(data: memoryview | bytes = DATA, **fields: object) -> bytes:
    return encode_frame(msgspec.structs.replace(STEP, **fields), data)


def of_tensor(data: memoryview | bytes = DATA, **fields: object) -> bytes:
    return changed(data, tensors=(msgspec.structs.replace(SPECS[0], **fields),))


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    return make_tiny_model(tmp_path_factory.mktemp("model"), blocks=2)


class Liar(Gateway):
    """A gateway with a session on a peer, both of its edges, and no respect for rules."""

    async def attach(self) -> None:
        await self.connect()
        self.open(100)
        self.edges: list[DialledEdge] = []
        self.outputs: asyncio.Queue[Output] = asyncio.Queue()
        for edge in ("steps", "outputs"):
            link = await self.dial("data")
            on_output = self.keep if edge == "outputs" else None
            self.edges.append(DialledEdge(link, SESSION, 1, on_output=on_output, on_lost=lambda error: None))
            await self.edges[-1].attach(edge)
        await self.hears(Opened)

    def keep(self, output: Output, payload: memoryview) -> None:
        self.outputs.put_nowait(output)

    async def dial(self, role: Role) -> Link:
        """Raises Refused, and what else a handshake may end in."""
        peer = self.peer
        return await dial(
            "127.0.0.1", peer.listener.port, to=peer.identity.peer, identity=self.identity, swarm=SWARM, role=role
        )

    def write(self, frames: bytes) -> None:
        """Put these bytes on the edge that carries steps."""
        self.edges[0].link._transport.write(frames)

    async def hears(self, kind: type[M]) -> M:
        """The next message of this kind: others may come before."""
        while True:
            message = await asyncio.wait_for(self.said.get(), 5)
            if isinstance(message, kind):
                return message


@pytest.fixture
async def liar(model: Path) -> AsyncIterator[Liar]:
    addresses: Addresses = {}
    async with LocalPeer(addresses, model, "0:2").serving(addresses) as peer:
        liar = Liar(addresses, peer)
        await liar.attach()
        yield liar


@pytest.mark.parametrize(
    ("frames", "kind"),
    [
        (LENGTH.pack(2**31), "frame"),
        (HEADER.pack(40, 90) + bytes(36), "frame"),
        (LENGTH.pack(300) + random.Random(1).randbytes(300), "frame"),
        (FRAME[:-10] + FRAME, "frame"),
        (of_tensor(shape=(1, HIDDEN - 1)), "frame"),
        (of_tensor(shape=(1, 1, HIDDEN)), "frame"),
        (of_tensor(dtype="bfloat16"), "frame"),
        (of_tensor(name="states"), "frame"),
        (of_tensor(b""), "frame"),
        (changed(tensors=()), "frame"),
        (changed(count=2), "frame"),
        (FRAME.replace(b"\xa4step", b"\xa4stop"), "frame"),
        (encode_frame(Ping(number=1)), "protocol"),
        (encode_frame(Attach(session=OTHER, epoch=1, edge="steps")), "protocol"),
    ],
    ids=[
        "oversized", "truncated message", "random", "truncated tensor", "shape", "dimensions", "dtype", "name",
        "no bytes", "no tensor", "count", "unknown message", "another role's message", "a second session"
    ],
)  # fmt: skip
async def test_what_breaks_the_protocol_is_refused_counted_told_of_once_and_its_sender_shunned(
    liar: Liar, caplog: pytest.LogCaptureFixture, frames: bytes, kind: str
) -> None:
    with caplog.at_level(logging.WARNING, "shared"):
        liar.write(frames)
        failure = await liar.hears(Failure)
        with pytest.raises(Refused, match="shunned: come back in 5 s"):
            await liar.dial("data")
    assert (failure.session, failure.code) == (SESSION, "edge_lost")
    assert liar.peer.listener.refusals.counted == {kind: 1, "shunned": 1}
    told = [record.getMessage() for record in caplog.records if record.name.startswith("shared.")]
    assert [each.startswith(f"{liar.identity.peer} is shunned") for each in told] == [True]


async def test_others_go_on_while_one_is_shunned(liar: Liar) -> None:
    honest = Liar({liar.peer.identity.peer: [("127.0.0.1", liar.peer.listener.port)]}, liar.peer)
    await honest.connect()
    liar.write(LENGTH.pack(2**31))
    await liar.hears(Failure)
    honest.open(100, session=OTHER)
    assert (await honest.hears(Pong)).sessions
    (await honest.dial("data")).close()


@pytest.mark.parametrize("end", ["unfinished", "whole"])
async def test_a_gateway_that_ends_and_starts_again_is_welcome(liar: Liar, end: str) -> None:
    liar.write(FRAME[:-4] if end == "unfinished" else FRAME)
    for edge in liar.edges:
        edge.link.close("the gateway ends")
    liar.link.close("the gateway ends")
    again = await liar.dial("control")
    again.close()
    assert not liar.peer.listener.refusals.counted


async def test_hidden_states_of_another_width_fail_the_session_and_not_the_link(liar: Liar) -> None:
    """Whoever passes them on may be honest: a gateway has put hops of two models together."""
    specs, data = encode_hidden(torch.ones(1, HIDDEN // 2))
    liar.write(changed(data, tensors=specs))
    failure = await liar.hears(Failure)
    assert (failure.session, failure.code, failure.kept) == (SESSION, "protocol", True)
    liar.link.send(Ping(number=7))
    assert (await liar.hears(Pong)).sessions == 1
    assert not liar.edges[0].link.closed
    assert not liar.peer.listener.refusals.counted


async def test_a_step_that_leaves_a_gap_is_told_with_the_name_of_its_sender(liar: Liar) -> None:
    liar.write(changed(position=1))
    failure = await liar.hears(Failure)
    assert (failure.code, failure.peer) == ("gap", liar.identity.peer)


async def test_steps_that_are_replayed_change_nothing(liar: Liar) -> None:
    liar.write(FRAME * 5)
    liar.write(changed(position=1))
    made = [(await asyncio.wait_for(liar.outputs.get(), 5)).position for _ in range(2)]
    assert made == [0, 1]
    assert next(iter(liar.peer.protocol.sessions)).cursor.dropped == 4
    assert not liar.peer.listener.refusals.counted
