"""Frames of every message, ways to spoil them, and a link that reads them: for the tests that throw bytes at links."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Any, get_args

from shared.errors import FrameError
from shared.links import HANDSHAKE_FRAME_LIMIT, Link
from shared.refusals import Refusals
from shared.types import PeerId
from shared.wire import (
    FRAME_LIMIT,
    LENGTH,
    Ack,
    AnyMessage,
    Attach,
    Attached,
    Challenge,
    Close,
    Detach,
    Extend,
    Extended,
    Failure,
    Hello,
    Message,
    Open,
    Opened,
    Output,
    Ping,
    Pong,
    Redirect,
    Redirected,
    Report,
    Status,
    Step,
    TensorSpec,
    Warm,
    Welcome,
    check_total,
    decode_frame,
    encode_frame,
)

SESSION = "0123456789abcdef" * 2
PEER = PeerId("12D3KooWGC6TvWhfapngX6wvJHMYvKpDMXPb3ZnCZ6dMoaMtimQ5")
HIDDEN = (TensorSpec(name="hidden", dtype="float32", shape=(1, 4)),)

MESSAGES: tuple[Message, ...] = (
    Challenge(nonce=b"n" * 32, swarm="test", protocol=(1, 1)),
    Hello(peer=PEER, signature=b"s" * 64, swarm="test", protocol=(1, 1), role="data", features=("x",)),
    Welcome(protocol=1),
    Failure(code="gap", reason="tokens are missing", session=SESSION, peer=PEER, epoch=2, kept=True),
    Open(
        session=SESSION, fingerprint="f" * 64, blocks=(0, 2), upstream=PEER, downstream=PEER, reserve=9, epoch=1,
        parent=(SESSION, 3),
    ),
    Opened(session=SESSION, cached=3),
    Extend(session=SESSION, reserve=9),
    Extended(session=SESSION, reserve=9),
    Status(session=SESSION, number=1),
    Report(
        session=SESSION, number=1, epoch=1, round=2, length=3, shallowest=0, outbox_from=0, queued=1, running=True,
        blocked=False, heard_ms=4, forward_ms=5, forwards=6
    ),
    Redirect(session=SESSION, epoch=2, upstream=PEER, downstream=PEER, length=3, forward_from=0),
    Redirected(session=SESSION, epoch=2),
    Warm(peers=(PEER,)),
    Close(session=SESSION),
    Ping(number=1, sessions=(SESSION,)),
    Pong(
        number=1, cache_tokens=9, free_cache_tokens=8, room_tokens=7, longest_tokens=9, sessions=1, tokens_per_s=2.5
    ),
    Attach(session=SESSION, epoch=1, edge="steps"),
    Attached(session=SESSION, epoch=1),
    Detach(session=SESSION),
    Step(session=SESSION, epoch=1, round=2, position=3, count=1, returns="last", tensors=HIDDEN, hops=((1, 2),)),
    Output(session=SESSION, epoch=1, round=2, position=3, count=1, tensors=HIDDEN),
    Ack(session=SESSION, received=2**40),
)  # fmt: skip
FRAMES = tuple(encode_frame(message, b"0123456789abcdef" * 2) for message in MESSAGES)
assert {type(message) for message in MESSAGES} == set(get_args(AnyMessage)), "a message has no example here"


class Wire(asyncio.Transport):
    """The end of a connection that goes nowhere: what is sent is counted, and closing is all that happens."""

    def __init__(self) -> None:
        super().__init__()
        self.sent_bytes = 0
        self.ended = False

    def write(self, data: Any) -> None:
        self.sent_bytes += len(data)

    def close(self) -> None:
        self.ended = True

    def abort(self) -> None:
        self.ended = True

    def get_write_buffer_size(self) -> int:
        return 0


class Reader:
    """Feeds a link to a proven peer, or one before its handshake; `told` is what the link took for frames."""

    def __init__(self, *, proven: bool = True) -> None:
        self.told: list[tuple[AnyMessage, bytes]] = []
        self.ends = 0
        self.refusals = Refusals()
        self.wire = Wire()
        self.link = Link(refusals=self.refusals)
        self.link.connection_made(self.wire)
        if proven:
            self.link.peer = PEER
            self.link.start(self)

    def received(self, link: Link, message: AnyMessage, payload: memoryview) -> None:
        self.told.append((message, bytes(payload)))

    def lost(self, link: Link, reason: str) -> None:
        self.ends += 1

    def feed(self, data: bytes) -> None:
        """Let these bytes arrive, in as large pieces as the link has room for; it never asks for more than a frame."""
        while data:
            room = self.link.get_buffer(-1)
            assert 0 < len(room) <= (FRAME_LIMIT if self.link.peer else HANDSHAKE_FRAME_LIMIT)
            piece = data[: len(room)]
            room[: len(piece)] = piece
            self.link.buffer_updated(len(piece))
            data = data[len(piece) :]

    def check(self) -> None:
        """Either all was in order, or it was refused: told to the other side, counted once, held against the peer."""
        refused = self.refusals.counted.total()
        assert refused <= 1
        assert self.wire.ended == self.link.closed == bool(refused)
        assert (PEER in self.refusals.peers) == (bool(refused) and bool(self.link.peer))
        assert bool(self.wire.sent_bytes) == bool(refused)


def readable(data: bytes) -> list[AnyMessage]:
    """The messages of a stream up to the first frame that is none, read all at once."""
    messages: list[AnyMessage] = []
    with suppress(FrameError):
        while len(data) >= LENGTH.size:
            end = LENGTH.size + check_total(LENGTH.unpack_from(data)[0])
            if len(data) < end:
                break
            messages.append(decode_frame(memoryview(data)[LENGTH.size : end])[0])
            data = data[end:]
    return messages
