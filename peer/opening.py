"""From a gateway's Open to a session that holds its cache and whose downstream edge stands."""

from __future__ import annotations

import asyncio

from peer.cursor import Cursor
from peer.model.blocks import Blocks
from peer.scheduler import Scheduler
from peer.sessions import Fail, Session, Sessions
from shared.edges import ATTACH_S, DialledEdge, as_hop_failure
from shared.errors import CorollaError, DeadlinePassed, HopFailed, ProtocolError
from shared.pool import LinkPool
from shared.types import BlockRange, Fingerprint, PeerId, SessionId
from shared.wire import Open


class Opener:
    """Judges what a gateway asks for, reserves it, and connects it."""

    def __init__(
        self,
        me: PeerId,
        fingerprint: Fingerprint,
        blocks: Blocks,
        sessions: Sessions,
        scheduler: Scheduler,
        pool: LinkPool,
        fail: Fail,
    ) -> None:
        self._me = me
        self._fingerprint = fingerprint
        self._blocks = blocks
        self._sessions = sessions
        self._scheduler = scheduler
        self._pool = pool
        self._fail = fail

    def reserve(self, gateway: PeerId, message: Open) -> Session:
        """A session with its cache reserved. Raises OutOfCache, HopFailed, ProtocolError."""
        blocks = self._check(message)
        session = Session(
            id=SessionId(message.session),
            gateway=gateway,
            upstream=PeerId(message.upstream),
            downstream=PeerId(message.downstream),
            blocks=blocks,
            reserve=message.reserve,
            cursor=Cursor(message.epoch),
            cache=self._blocks.new_cache(blocks, message.reserve),
        )
        self._sessions.add(session)
        return session

    async def connect(self, session: Session) -> None:
        """Return once the downstream edge stands. Raises HopFailed that names it, DeadlinePassed."""
        if session.last:
            await self._await_outputs(session)
        else:
            await self._dial_downstream(session)

    def _check(self, message: Open) -> BlockRange:
        """The blocks to use, if this peer can do what is asked."""
        if message.output != "hidden":
            raise HopFailed(self._me, "unsupported", f"output {message.output!r} is unknown to this peer")
        if message.fingerprint != self._fingerprint:
            raise HopFailed(self._me, "wrong_model", "this peer serves another model")
        if self._me in (message.upstream, message.downstream) or not message.reserve:
            raise ProtocolError("a session needs a reservation, and other nodes on both sides")
        try:
            blocks = BlockRange(*message.blocks)
        except ValueError as error:
            raise ProtocolError(str(error)) from error
        if not self._blocks.range.covers(blocks):
            raise HopFailed(self._me, "wrong_blocks", f"this peer holds blocks {self._blocks.range}, not {blocks}")
        return blocks

    async def _await_outputs(self, session: Session) -> None:
        """The last hop answers on a link that the gateway dials."""
        try:
            await asyncio.wait_for(session.outlet_stands.wait(), ATTACH_S)
        except TimeoutError as error:
            raise DeadlinePassed(f"the gateway attached no link for outputs within {ATTACH_S:g} s") from error

    async def _dial_downstream(self, session: Session) -> None:
        try:
            link = await self._pool.acquire(session.downstream)
            session.edge = DialledEdge(
                link,
                session.id,
                session.cursor.epoch,
                on_room=self._scheduler.wake,
                on_lost=lambda error: self._fail(session, error),
            )
            await session.edge.attach("steps")
        except CorollaError as error:
            raise as_hop_failure(error, session.downstream) from error
        session.outlet = session.edge.outlet
        self._scheduler.wake()
