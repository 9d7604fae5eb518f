"""How a link is made: dial or listen, TLS, and the proof of both identities.

The dialled node proves its peer ID by its certificate, before the dialler sends a byte; the dialler signs the
dialled node's nonce inside TLS. Then both know each other, and agree on a swarm and a protocol version.
"""

from __future__ import annotations

import asyncio
import functools
import hashlib
import os
import socket
import ssl
from collections.abc import Callable

import msgspec

from shared.certificate import client_context, peer_of, server_context
from shared.errors import BadIdentity, CorollaError, DeadlinePassed, IsShunned, LinkLost, VersionMismatch
from shared.identity import Identity, verify
from shared.links import HANDSHAKE_S, Handler, Link, Role, Traffic
from shared.refusals import Kind, Refusals, source_of
from shared.types import PeerId
from shared.wire import PROTOCOL, Challenge, Hello, Versions, Welcome

HANDSHAKES_LIMIT = 256
LINKS_LIMIT = 2048
CLOSE_S = 1.0
LABEL = b"corolla-hello-v1:"


async def dial(
    host: str,
    port: int,
    *,
    to: PeerId,
    identity: Identity,
    swarm: str,
    role: Role,
    deadline_s: float = HANDSHAKE_S,
    traffic: Traffic | None = None,
    refusals: Refusals | None = None,
) -> Link:
    """A link to the peer `to`, counted in `traffic`; what is wrong with it is held in `refusals`.

    Raises LinkLost, BadIdentity, VersionMismatch, ProtocolError, DeadlinePassed.
    """
    refusals = refusals or Refusals()
    make = functools.partial(Link, traffic, refusals)
    try:
        async with asyncio.timeout(deadline_s):
            _, link = await asyncio.get_running_loop().create_connection(
                make, host, port, ssl=client_context(), server_hostname="corolla.invalid"
            )
    except TimeoutError as error:
        raise DeadlinePassed(f"{host}:{port} did not answer within {deadline_s:g} s") from error
    except (OSError, ssl.SSLError) as error:
        raise LinkLost(f"{host}:{port} cannot be reached: {error}") from error
    try:
        await _introduce(link, to, identity, swarm, role, deadline_s)
    except BaseException as error:
        if isinstance(error, CorollaError):
            refusals.on_dialled(link.peer, error)
        link.abort("the handshake failed")
        raise
    return link


async def _introduce(link: Link, to: PeerId, identity: Identity, swarm: str, role: Role, deadline_s: float) -> None:
    certificate = link.certificate()
    if (found := peer_of(certificate)) != to:
        raise BadIdentity(f"{found} answered where {to} was dialled")
    link.peer, link.role = to, role
    challenge = await link.expect(Challenge, deadline_s)
    common_version(PROTOCOL, challenge.protocol)
    _check_swarm(swarm, challenge.swarm)
    unsigned = Hello(peer=identity.peer, signature=bytes(64), swarm=swarm, protocol=PROTOCOL, role=role)
    proof = transcript(unsigned, to, certificate, challenge.nonce)
    link.send(msgspec.structs.replace(unsigned, signature=identity.sign(LABEL, proof)))
    await link.expect(Welcome, deadline_s)


class Listener:
    """Accepts links; `on_link` names the handler of each one whose dialler has proven who it is."""

    def __init__(
        self,
        identity: Identity,
        swarm: str,
        on_link: Callable[[Link], Handler],
        traffic: Traffic | None = None,
        refusals: Refusals | None = None,
    ) -> None:
        self.traffic = traffic or Traffic()
        self.refusals = refusals or Refusals()
        self._identity = identity
        self._swarm = swarm
        self._on_link = on_link
        self._context, self._certificate = server_context(identity)
        self._handshakes: set[asyncio.Task[None]] = set()
        self.links: set[Link] = set()
        self._quiet = asyncio.Event()
        self.port = 0

    async def start(self, listening: socket.socket) -> None:
        """Accept links on a socket that listens; it is this listener's from now on."""
        self.port = listening.getsockname()[1]
        self._server = await asyncio.get_running_loop().create_server(
            self._accept, sock=listening, ssl=self._context, ssl_handshake_timeout=HANDSHAKE_S
        )

    async def close(self) -> None:
        """Stop listening and end all links."""
        self._server.close()
        for task in self._handshakes:
            task.cancel()
        for link in list(self.links):
            link.close("this node is ending")
        await asyncio.gather(*self._handshakes, return_exceptions=True)
        if not self.links:
            return
        self._quiet.clear()
        try:
            async with asyncio.timeout(CLOSE_S):
                await self._quiet.wait()
        except TimeoutError:
            for link in list(self.links):
                link.abort("this node is ending")

    def _accept(self) -> Link:
        return _Accepted(self)

    def made(self, link: _Accepted) -> None:
        """The TLS handshake is over; ours begins, unless there are too many already, or too many failed from there."""
        if source_of(link.host) in self.refusals.addresses:
            self._turn_away(link, "shunned", f"too many handshakes with {link.host} have failed")
            return
        if len(self._handshakes) >= HANDSHAKES_LIMIT or len(self.links) >= LINKS_LIMIT:
            self._turn_away(link, "crowd", "there are too many links already")
            return
        task = asyncio.create_task(self._welcome(link))
        self._handshakes.add(task)
        task.add_done_callback(self._handshakes.discard)

    def forget(self, link: Link) -> None:
        self.links.discard(link)
        if not self.links:
            self._quiet.set()

    def _turn_away(self, link: Link, kind: Kind, reason: str) -> None:
        self.refusals.count(kind, reason)
        link.abort(reason)

    async def _welcome(self, link: Link) -> None:
        self.links.add(link)
        try:
            version = await self._identify(link)
        except CorollaError as error:
            link.refuse(error)
            return
        link.send(Welcome(protocol=version))
        link.start(self._on_link(link))

    async def _identify(self, link: Link) -> int:
        nonce = os.urandom(32)
        link.send(Challenge(nonce=nonce, swarm=self._swarm, protocol=PROTOCOL))
        hello = await link.expect(Hello)
        version = common_version(PROTOCOL, hello.protocol)
        _check_swarm(self._swarm, hello.swarm)
        if seconds := self.refusals.peers.seconds(hello.peer):  # be it proven or not: the claim costs nobody anything
            raise IsShunned(seconds)
        proof = transcript(hello, self._identity.peer, self._certificate, nonce)
        verify(hello.peer, LABEL, proof, hello.signature)
        link.peer, link.role = PeerId(hello.peer), hello.role
        return version


class _Accepted(Link):
    """A link that somebody dialled to us."""

    def __init__(self, listener: Listener) -> None:
        super().__init__(listener.traffic, listener.refusals)
        self._listener = listener
        self.host = ""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self.host = str((transport.get_extra_info("peername") or ("",))[0])
        self._listener.made(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self._listener.forget(self)
        super().connection_lost(exc)

    def _hold(self, error: CorollaError) -> None:
        self._refusals.on_link(self.peer, self.host, error)


def common_version(ours: Versions, theirs: Versions) -> int:
    """The highest version in both ranges. Raises VersionMismatch."""
    version = min(ours[1], theirs[1])
    if version < max(ours[0], theirs[0]):
        raise VersionMismatch(
            f"no protocol version in common: here {ours[0]} to {ours[1]}, there {theirs[0]} to {theirs[1]}; "
            "the older of the two needs an update"
        )
    return version


def _check_swarm(ours: str, theirs: str) -> None:
    if ours != theirs:
        raise VersionMismatch(f"this node is in the swarm {ours!r}, the other one in {theirs!r}")


def transcript(hello: Hello, dialled: PeerId, certificate: bytes, nonce: bytes) -> bytes:
    """What the dialler signs: all that its Hello says, and that it says it on this very connection."""
    said = (hello.protocol, hello.peer, hello.swarm, hello.role, hello.features)
    fields = (*said, dialled, hashlib.sha256(certificate).digest(), nonce)
    return msgspec.msgpack.encode(fields)
