"""A chain: one session over a route of peers. Knows hidden states and links; knows nothing of tokens or text."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Awaitable, Mapping
from typing import Literal, TypeVar

from gateway.swarm.control import Control
from gateway.swarm.routing import Route
from shared.edges import DialledEdge, Edge, as_hop_failure
from shared.errors import CorollaError, DeadlinePassed, HopFailed, LinkLost, ProtocolError
from shared.pool import LinkPool
from shared.tensors import Encoded, check_tensor
from shared.types import Fingerprint, PeerId, SessionId
from shared.wire import Open, Output, Step

OPEN_S = 10.0
OUTPUT_S = 60.0
EPOCH = 1
OUTPUTS_LIMIT = 8192  # frames of one prefill, each answered by an output, if only of zero rows

T = TypeVar("T")


class Chain:
    """The gateway's handle on a session: `open`, then rounds of `push` and one `output` each, then `close`."""

    def __init__(self, me: PeerId, route: Route, controls: Mapping[PeerId, Control], pool: LinkPool) -> None:
        self.session = SessionId(secrets.token_hex(16))
        self.route = route
        self._me = me
        self._controls = [controls[span.peer] for span in route]
        self._pool = pool
        self.edges: dict[Edge, DialledEdge] = {}
        self._unopened = {span.peer for span in route}
        self._opened = asyncio.Event()
        self._failed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._outputs: asyncio.Queue[tuple[Output, memoryview]] = asyncio.Queue(OUTPUTS_LIMIT)
        self._room = asyncio.Event()
        self._round = 0
        self._end = 0

    async def open(self, fingerprint: Fingerprint, reserve: int) -> None:
        """Reserve `reserve` tokens on every hop and connect them. Raises HopFailed."""
        for control in self._controls:
            control.owners[self.session] = self
        self._send_opens(fingerprint, reserve)
        try:
            await self._unless_failed(self._connect(), OPEN_S, "opening the session")
        except DeadlinePassed as error:
            late = min(self._unopened, default=self.route[0].peer)
            raise as_hop_failure(error, late) from error

    def begin_round(self, position: int) -> None:
        """What is pushed from now on starts at `position`; a position below the end rolls the caches back."""
        self._round += 1
        self._end = position

    @property
    def last_peer(self) -> PeerId:
        """Whose output this gateway reads."""
        return self.route[-1].peer

    async def push(self, hidden: Encoded, returns: Literal["none", "last"]) -> None:
        """Send hidden states `(tokens, hidden)` of the next positions into the chain. Raises HopFailed."""
        specs, data = hidden
        count = specs[0].shape[0]
        outlet = self.edges["steps"].outlet
        while not outlet.has_room(len(data)):
            self._room.clear()
            await self._unless_failed(self._room.wait(), OUTPUT_S, "a hop to take a step")
        self._check()
        step = Step(
            session=self.session,
            epoch=EPOCH,
            round=self._round,
            position=self._end,
            count=count,
            returns=returns,
            tensors=specs,
        )
        try:
            outlet.send(step, data)
        except LinkLost as error:
            raise as_hop_failure(error, self.route[0].peer) from error
        self._end += count

    async def output(self, width: int) -> Encoded:
        """The round's last row of hidden states, `(1, width)`, when all hops have run. Raises HopFailed.

        Its shape is checked, its numbers are not: whoever decodes it does that, and blames `last_peer`.
        """
        while True:
            message, payload = await self._unless_failed(self._outputs.get(), OUTPUT_S, "the chain's output")
            self.edges["outputs"].inlet.taken(len(payload))
            if (message.epoch, message.round) != (EPOCH, self._round):
                continue  # the answer to a round that nobody waits for any more
            if message.count and message.position + message.count == self._end:
                return self._checked(message, payload, width)

    def close(self) -> None:
        """Free the caches on all hops and give the links back."""
        for control in self._controls:
            control.release(self.session)
        for edge in self.edges.values():
            if edge.detach():
                self._pool.release(edge.link)
        self._failed.cancel()

    def hop_opened(self, peer: PeerId) -> None:
        self._unopened.discard(peer)
        if not self._unopened:
            self._opened.set()

    def hop_failed(self, error: HopFailed) -> None:
        if not self._failed.done():
            self._failed.set_exception(error)
            self._failed.exception()  # a chain that is closing may never look

    def _send_opens(self, fingerprint: Fingerprint, reserve: int) -> None:
        nodes = [self._me, *(span.peer for span in self.route), self._me]
        for index, (span, control) in enumerate(zip(self.route, self._controls, strict=True)):
            message = Open(
                session=self.session,
                fingerprint=fingerprint,
                blocks=(span.blocks.start, span.blocks.end),
                upstream=nodes[index],
                downstream=nodes[index + 2],
                reserve=reserve,
                epoch=EPOCH,
            )
            try:
                control.send(message)
            except LinkLost as error:
                raise as_hop_failure(error, span.peer) from error

    async def _connect(self) -> None:
        work = (self._attach("steps"), self._attach("outputs"), self._opened.wait())
        tasks = [asyncio.ensure_future(each) for each in work]
        try:
            await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()

    async def _attach(self, edge: Edge) -> None:
        peer = self.route[0].peer if edge == "steps" else self.route[-1].peer
        try:
            link = await self._pool.acquire(peer)
            dialled = DialledEdge(
                link,
                self.session,
                EPOCH,
                on_room=self._room.set,
                on_output=self._receive if edge == "outputs" else None,
                on_lost=self.hop_failed,
            )
            self.edges[edge] = dialled
            await dialled.attach(edge)
        except CorollaError as error:
            raise as_hop_failure(error, peer) from error

    def _receive(self, output: Output, payload: memoryview) -> None:
        try:
            self._outputs.put_nowait((output, payload))
        except asyncio.QueueFull:
            self.hop_failed(
                HopFailed(self.last_peer, "protocol", f"{self.last_peer} sends outputs that nobody asked for")
            )

    def _checked(self, message: Output, payload: memoryview, width: int) -> Encoded:
        try:
            check_tensor(message.tensors, len(payload), (1, width))
        except ProtocolError as error:
            raise as_hop_failure(error, self.last_peer) from error
        return Encoded(message.tensors, payload)

    def _check(self) -> None:
        if self._failed.done():
            self._failed.result()

    async def _unless_failed(self, wait: Awaitable[T], deadline_s: float, what: str) -> T:
        """Await, but no longer than the deadline, and not after a hop has failed."""
        task = asyncio.ensure_future(wait)
        try:
            done, _ = await asyncio.wait({task, self._failed}, timeout=deadline_s, return_when=asyncio.FIRST_COMPLETED)
            if task in done:
                return task.result()
            self._check()
            raise DeadlinePassed(f"waited {deadline_s:g} s for {what}")
        finally:
            task.cancel()
