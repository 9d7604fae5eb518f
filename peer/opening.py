"""From a gateway's Open to a session that holds its cache and whose downstream edge stands."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from peer.cursor import Cursor
from peer.model.blocks import Blocks
from peer.sessions import Fail, Session, Sessions
from shared.edges import ATTACH_S, DialledEdge, as_hop_failure
from shared.errors import CorollaError, DeadlinePassed, HopFailed, ProtocolError
from shared.pool import LinkPool
from shared.types import BlockRange, Fingerprint, PeerId, SessionId
from shared.wire import Open, Redirect


class Opener:
    """Judges what a gateway asks for, reserves it, and connects it."""

    def __init__(
        self,
        me: PeerId,
        fingerprint: Fingerprint,
        blocks: Blocks,
        sessions: Sessions,
        pool: LinkPool,
        fail: Fail,
        on_room: Callable[[Session], None],
    ) -> None:
        self._me = me
        self._fingerprint = fingerprint
        self._blocks = blocks
        self._sessions = sessions
        self._pool = pool
        self._fail = fail
        self._on_room = on_room

    def reserve(self, gateway: PeerId, message: Open) -> Session:
        """A session with its cache reserved. Raises OutOfCache, HopFailed, ProtocolError."""
        blocks = self._check(message)
        copied = message.parent[1] if message.parent else 0
        session = Session(
            id=SessionId(message.session),
            gateway=gateway,
            upstream=PeerId(message.upstream),
            downstream=PeerId(message.downstream),
            blocks=blocks,
            reserve=message.reserve,
            cursor=Cursor(message.epoch, length=copied),
            cache=self._blocks.new_cache(blocks, message.reserve),
            output=message.output,
            forward_from=message.forward_from,
            done=copied,
        )
        self._sessions.add(session)
        return session

    def check_parent(self, parent: Session | None, message: Open) -> None:
        """Raises HopFailed unless a session can begin as a copy of `parent`, a session of its own gateway."""
        assert message.parent
        _, length = message.parent
        if parent is None or parent.fenced:
            raise HopFailed(self._me, "cannot_fork", f"{self._me} does not hold the session to be copied, or not whole")
        if (parent.blocks.start, parent.blocks.end) != message.blocks:
            raise HopFailed(self._me, "cannot_fork", f"the session to be copied is over blocks {parent.blocks}")
        if not 0 < length <= min(parent.done, message.reserve):
            has = f"{parent.done} tokens of it are here, and {message.reserve} reserved"
            raise HopFailed(self._me, "cannot_fork", f"{length} tokens cannot be copied: {has}")

    def redirect(self, session: Session, message: Redirect) -> None:
        """Put the session between other nodes, with what it keeps.

        Raises ProtocolError, HopFailed; the session is then as it was.
        """
        self._check_place(message)
        if message.length > session.done or message.epoch <= session.cursor.epoch:
            has = f"in epoch {session.cursor.epoch} there are {session.done} tokens"
            raise ProtocolError(f"epoch {message.epoch} cannot begin at token {message.length}: {has}")
        session.upstream, session.downstream = PeerId(message.upstream), PeerId(message.downstream)
        session.output = message.output
        session.rejoin(message.epoch, message.length, message.forward_from)

    async def connect(self, session: Session) -> None:
        """Return once the downstream edge stands. Raises HopFailed that names it, DeadlinePassed."""
        if session.downstream == session.gateway:
            await self._await_outlet(session)
        else:
            await self._dial_downstream(session)

    def _check(self, message: Open) -> BlockRange:
        """The blocks to use, if this peer can do what is asked."""
        self._check_place(message)
        if message.fingerprint != self._fingerprint:
            raise HopFailed(self._me, "wrong_model", "this peer serves another model")
        if not message.reserve:
            raise ProtocolError("a session needs a reservation")
        try:
            blocks = BlockRange(*message.blocks)
        except ValueError as error:
            raise ProtocolError(str(error)) from error
        if not self._blocks.range.covers(blocks):
            raise HopFailed(self._me, "wrong_blocks", f"this peer holds blocks {self._blocks.range}, not {blocks}")
        return blocks

    def _check_place(self, message: Open | Redirect) -> None:
        if message.output not in ("hidden", "steps"):
            raise HopFailed(self._me, "unsupported", f"output {message.output!r} is unknown to this peer")
        if self._me in (message.upstream, message.downstream):
            raise ProtocolError("a hop stands between other nodes")

    async def _await_outlet(self, session: Session) -> None:
        """The gateway dials for what it is to get: a hop never dials a gateway."""
        try:
            async with asyncio.timeout(ATTACH_S):
                await session.outlet_stands.wait()
        except TimeoutError as error:
            raise DeadlinePassed(f"the gateway attached no link for outputs within {ATTACH_S:g} s") from error

    async def _dial_downstream(self, session: Session) -> None:
        try:
            link = await self._pool.acquire(session.downstream)
            session.edge = DialledEdge(
                link,
                session.id,
                session.cursor.epoch,
                on_room=lambda: self._on_room(session),
                on_lost=lambda error: self._fail(session, error),
            )
            await session.edge.attach("steps")
        except CorollaError as error:
            raise as_hop_failure(error, session.downstream) from error
        session.outlet = session.edge.outlet
        self._on_room(session)
