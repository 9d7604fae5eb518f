"""The bytes that links carry, counted for a whole node."""

from __future__ import annotations

import asyncio
import socket

from shared.handshake import Listener
from shared.identity import Identity
from shared.links import Traffic
from shared.pool import Dialler
from shared.wire import Ping, encode_frame
from tests.shared.test_links import Recorder


async def test_what_one_node_sends_the_other_receives_over_all_links() -> None:
    ours, theirs = Traffic(), Traffic()
    server, recorders = Identity.create(), [Recorder(), Recorder()]
    unused = iter(recorders)
    listener = Listener(server, "test", lambda link: next(unused), theirs)
    await listener.start(socket.create_server(("127.0.0.1", 0)))
    dialler = Dialler(Identity.create(), "test", lambda peer: [("127.0.0.1", listener.port)], ours)
    links = [await dialler.dial(server.peer, "data") for _ in range(2)]
    shaken_hands = ours.sent_bytes
    for link, recorder in zip(links, recorders, strict=True):
        link.send(Ping(number=1), b"x" * 1000)
        await asyncio.wait_for(recorder.messages.get(), 5)
    assert ours.sent_bytes == shaken_hands + 2 * len(encode_frame(Ping(number=1), b"x" * 1000))
    assert (theirs.received_bytes, theirs.sent_bytes) == (ours.sent_bytes, ours.received_bytes)
    await listener.close()
