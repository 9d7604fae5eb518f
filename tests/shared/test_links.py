from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import AsyncIterator

import msgspec
import pytest

from shared.certificate import client_context, server_context
from shared.errors import BadIdentity, DeadlinePassed, LinkLost, ProtocolError, Refused, VersionMismatch
from shared.handshake import LABEL, Listener, common_version, dial, transcript
from shared.identity import Identity
from shared.links import Handler, Link
from shared.refusals import Refusals
from shared.shunned import SLIP_S, SLIPS
from shared.wire import LENGTH, AnyMessage, Challenge, Close, Failure, Hello, Ping, Welcome, encode_frame
from tests.shared.clock import Clock

SERVER, CLIENT = Identity.create(), Identity.create()
SESSION = "0" * 32


class Recorder:
    """Keeps what a link tells."""

    def __init__(self) -> None:
        self.messages: asyncio.Queue[tuple[AnyMessage, bytes]] = asyncio.Queue()
        self.ended: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self.links: list[Link] = []

    def received(self, link: Link, message: AnyMessage, payload: memoryview) -> None:
        if isinstance(message, Close):
            raise ProtocolError("no Close here, please")
        self.messages.put_nowait((message, bytes(payload)))

    def lost(self, link: Link, reason: str) -> None:
        self.ended.set_result(reason)

    def on_link(self, link: Link) -> Handler:
        self.links.append(link)
        return self


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def server(clock: Clock) -> AsyncIterator[tuple[Listener, Recorder]]:
    recorder = Recorder()
    listener = Listener(SERVER, "test", recorder.on_link, refusals=Refusals(clock))
    await listener.start(socket.create_server(("127.0.0.1", 0)))
    yield listener, recorder
    await listener.close()


async def dial_server(port: int, swarm: str = "test", to: Identity = SERVER, refusals: Refusals | None = None) -> Link:
    return await dial(
        "127.0.0.1",
        port,
        to=to.peer,
        identity=CLIENT,
        swarm=swarm,
        role="control",
        deadline_s=5,
        refusals=refusals,
    )


async def test_both_sides_know_each_other_and_frames_arrive_in_order(server: tuple[Listener, Recorder]) -> None:
    listener, recorder = server
    link = await dial_server(listener.port)
    for number in range(50):
        link.send(Ping(number=number), b"x" * number * 1000)
    received = [await asyncio.wait_for(recorder.messages.get(), 5) for _ in range(50)]
    assert received == [(Ping(number=number), b"x" * number * 1000) for number in range(50)]
    assert (link.peer, recorder.links[0].peer) == (SERVER.peer, CLIENT.peer)
    link.close()


async def test_another_node_than_the_dialled_one_hears_nothing_and_nobody_is_shunned(
    server: tuple[Listener, Recorder],
) -> None:
    refusals = Refusals()
    with pytest.raises(BadIdentity, match="answered where"):
        await dial_server(server[0].port, to=Identity.create(), refusals=refusals)
    assert not server[1].links
    assert refusals.counted == {"identity": 1}
    assert not len(refusals.peers)


async def test_a_dialled_node_that_breaks_the_protocol_is_shunned_by_the_dialler(
    server: tuple[Listener, Recorder],
) -> None:
    refusals, recorder = Refusals(), Recorder()
    link = await dial_server(server[0].port, refusals=refusals)
    link.start(recorder)
    link.send(Ping(number=1))
    await asyncio.wait_for(server[1].messages.get(), 5)
    server[1].links[0]._transport.write(b"\xff" * 64)
    await asyncio.wait_for(recorder.ended, 5)
    assert refusals.counted == {"frame": 1}
    assert SERVER.peer in refusals.peers


async def test_a_dialler_that_is_refused_holds_it_against_nobody(server: tuple[Listener, Recorder]) -> None:
    refusals = Refusals()
    server[0].refusals.peers.offends(CLIENT.peer, "whatever it was")
    with pytest.raises(Refused):
        await dial_server(server[0].port, refusals=refusals)
    assert not refusals.counted


async def test_another_swarm_is_refused(server: tuple[Listener, Recorder]) -> None:
    with pytest.raises(VersionMismatch, match="'other'"):
        await dial_server(server[0].port, swarm="other")


async def test_a_port_where_nobody_listens_is_a_lost_link() -> None:
    with pytest.raises(LinkLost, match="cannot be reached"):
        await dial_server(1)


async def test_a_listener_that_never_answers_is_given_up() -> None:
    silent = await asyncio.start_server(lambda *_: None, "127.0.0.1", 0)
    with pytest.raises(DeadlinePassed):
        await dial(
            "127.0.0.1",
            silent.sockets[0].getsockname()[1],
            to=SERVER.peer,
            identity=CLIENT,
            swarm="test",
            role="data",
            deadline_s=0.3,
        )
    silent.close()


async def test_a_broken_rule_is_told_and_ends_the_link(server: tuple[Listener, Recorder]) -> None:
    link, recorder = await dial_server(server[0].port), Recorder()
    link.start(recorder)
    link.send(Close(session=SESSION))
    message, _ = await asyncio.wait_for(recorder.messages.get(), 5)
    assert isinstance(message, Failure)
    assert "no Close here" in message.reason
    await asyncio.wait_for(recorder.ended, 5)
    with pytest.raises(LinkLost):
        link.send(Ping(number=1))


async def raw_connection(port: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    return await asyncio.open_connection("127.0.0.1", port, ssl=client_context(), server_hostname="corolla.invalid")


async def next_message(reader: asyncio.StreamReader) -> bytes:
    (length,) = LENGTH.unpack(await reader.readexactly(4))
    return await reader.readexactly(length)


@pytest.mark.parametrize(
    "garbage",
    [
        b"\xff" * 64,
        b"GET / HTTP/1.1\r\n\r\n",
        LENGTH.pack(2**20) + b"x" * 10,
        encode_frame(Ping(number=1)),
        encode_frame(Hello(peer=CLIENT.peer, signature=b"x" * 64, swarm="test", protocol=(1, 1), role="control")),
        encode_frame(Hello(peer="nobody", signature=b"x" * 64, swarm="test", protocol=(1, 1), role="control")),
    ],
)
async def test_whoever_does_not_prove_an_identity_is_sent_away(
    server: tuple[Listener, Recorder], garbage: bytes
) -> None:
    reader, writer = await raw_connection(server[0].port)
    await next_message(reader)
    writer.write(garbage)
    rest = await asyncio.wait_for(reader.read(), 5)
    assert b"failure" in rest
    assert not server[1].links
    assert server[0].refusals.counted.total() == 1
    assert not len(server[0].refusals.peers)  # the name in a Hello is a claim: who bears it has done nothing
    writer.close()
    (await dial_server(server[0].port)).close()


async def test_an_address_whose_handshakes_fail_again_and_again_is_turned_away_for_a_while(
    server: tuple[Listener, Recorder], clock: Clock
) -> None:
    for _ in range(SLIPS):
        clock.now += SLIP_S
        reader, writer = await raw_connection(server[0].port)
        writer.write(encode_frame(Ping(number=1)))
        await asyncio.wait_for(reader.read(), 5)
        writer.close()
    with pytest.raises(LinkLost):
        await dial_server(server[0].port)
    clock.now += 5
    (await dial_server(server[0].port)).close()


async def offend(listener: Listener, garbage: bytes) -> None:
    """Prove who we are, then send this, and wait for the end."""
    link, recorder = await dial_server(listener.port), Recorder()
    link.start(recorder)
    link._transport.write(garbage)
    await asyncio.wait_for(recorder.ended, 5)


async def test_who_breaks_the_protocol_is_refused_for_growing_times_and_told_for_how_long(
    server: tuple[Listener, Recorder], clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    for seconds in (5, 10, 20):
        server[1].ended = asyncio.get_running_loop().create_future()
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            await offend(server[0], b"\xff" * 64)
            for _ in range(3):
                with pytest.raises(Refused, match=f"come back in {seconds} s"):
                    await dial_server(server[0].port)
        assert [CLIENT.peer in record.getMessage() for record in caplog.records] == [True]
        clock.now += seconds
    (await dial_server(server[0].port)).close()
    assert server[0].refusals.counted == {"frame": 3, "shunned": 9}


async def test_others_are_served_while_one_is_shunned(server: tuple[Listener, Recorder]) -> None:
    await offend(server[0], encode_frame(Close(session=SESSION)))
    other = await dial(
        "127.0.0.1", server[0].port, to=SERVER.peer, identity=Identity.create(), swarm="test", role="data"
    )
    other.close()


async def test_a_node_that_ends_in_the_middle_of_a_frame_may_come_back_at_once(
    server: tuple[Listener, Recorder],
) -> None:
    link = await dial_server(server[0].port)
    link._transport.write(encode_frame(Ping(number=1), b"x" * 1000)[:500])
    link.close("killed")
    await asyncio.wait_for(server[1].ended, 5)
    assert not server[0].refusals.counted
    (await dial_server(server[0].port)).close()


async def test_plain_tcp_garbage_does_not_hurt(server: tuple[Listener, Recorder]) -> None:
    _, writer = await asyncio.open_connection("127.0.0.1", server[0].port)
    writer.write(b"\x00" * 1000)
    (await dial_server(server[0].port)).close()
    writer.close()


async def test_a_proof_made_for_another_certificate_is_worth_nothing(server: tuple[Listener, Recorder]) -> None:
    """Somebody with the server's key but another certificate passes on nonce and Hello: the real server refuses."""
    reader, writer = await raw_connection(server[0].port)
    challenge = await next_message(reader)

    async def relay(from_client: asyncio.StreamReader, to_client: asyncio.StreamWriter) -> None:
        to_client.write(LENGTH.pack(len(challenge)) + challenge)
        hello = await next_message(from_client)
        writer.write(LENGTH.pack(len(hello)) + hello)
        to_client.close()

    middle = await asyncio.start_server(relay, "127.0.0.1", 0, ssl=server_context(SERVER)[0])
    with pytest.raises(LinkLost):
        await dial_server(middle.sockets[0].getsockname()[1])
    assert b"not one of" in await asyncio.wait_for(reader.read(), 5)
    middle.close()
    writer.close()


def test_versions_meet_at_the_highest_common_one() -> None:
    assert common_version((1, 3), (2, 5)) == 3
    with pytest.raises(VersionMismatch, match="here 1 to 1, there 2 to 3"):
        common_version((1, 1), (2, 3))


async def test_a_newer_dialler_and_an_older_listener_speak_the_version_of_both(
    server: tuple[Listener, Recorder],
) -> None:
    reader, writer = await raw_connection(server[0].port)
    challenge = msgspec.msgpack.decode((await next_message(reader))[4:], type=Challenge)
    unsigned = Hello(peer=CLIENT.peer, signature=bytes(64), swarm="test", protocol=(1, 7), role="control")
    certificate = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
    proof = transcript(unsigned, SERVER.peer, certificate, challenge.nonce)
    writer.write(encode_frame(msgspec.structs.replace(unsigned, signature=CLIENT.sign(LABEL, proof))))
    welcome = msgspec.msgpack.decode((await next_message(reader))[4:], type=Welcome)
    assert welcome.protocol == 1
    writer.close()


async def test_a_dialler_learns_both_ranges_when_no_version_is_common() -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(encode_frame(Challenge(nonce=b"n" * 32, swarm="test", protocol=(7, 9))))
        await reader.read()
        writer.close()

    future = await asyncio.start_server(answer, "127.0.0.1", 0, ssl=server_context(SERVER)[0])
    with pytest.raises(VersionMismatch, match="there 7 to 9"):
        await dial_server(future.sockets[0].getsockname()[1])
    future.close()
