"""A chain: one session over a route of peers. Knows hidden states and links; knows nothing of tokens or text."""

from __future__ import annotations

import asyncio
import secrets
from collections import Counter
from collections.abc import Callable, Coroutine, Mapping
from typing import Any, Literal

from gateway.swarm.control import Control
from gateway.swarm.routing import Route
from shared.edges import DialledEdge, Edge, as_hop_failure
from shared.errors import CorollaError, DeadlinePassed, HopFailed, LinkLost, ProtocolError
from shared.pool import LinkPool
from shared.tensors import Encoded, check_tensor
from shared.types import Fingerprint, PeerId, SessionId
from shared.wire import Extend, HopTime, Open, Output, Step

OPEN_S = 10.0
EXTEND_S = 10.0
STILL_S = 60.0  # how long nothing may move while somebody waits
EPOCH = 1

OnHops = Callable[[PeerId, HopTime], None]
"""Hears what a hop spent on a step."""


class Chain:
    """The gateway's handle on a session: `open`, then rounds of `push` and one `output` each, then `close`.

    `extend` may run beside them.
    """

    def __init__(
        self,
        me: PeerId,
        route: Route,
        controls: Mapping[PeerId, Control],
        pool: LinkPool,
        on_hops: OnHops = lambda peer, spent: None,
    ) -> None:
        self.session = SessionId(secrets.token_hex(16))
        self.route = route
        self._me = me
        self._controls = [controls[span.peer] for span in route]
        self._pool = pool
        self._on_hops = on_hops
        self.edges: dict[Edge, DialledEdge] = {}
        self._unopened = {span.peer for span in route}
        self._opened = asyncio.Event()
        self._failed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._held: dict[PeerId, int] = {}  # tokens of cache, by hop
        self._asked = 0  # tokens of cache that the last Open or Extend asked for
        self._unextended: Counter[PeerId] = Counter()  # Extends that a hop has not answered; answers come in order
        self._answer: tuple[Output, memoryview] | None = None
        self._news = asyncio.Event()
        self._moved_at = 0.0
        self._round = 0
        self._end = 0  # of what was pushed
        self._through = 0  # the end of what all hops have run

    async def open(self, fingerprint: Fingerprint, reserve: int) -> None:
        """Reserve `reserve` tokens on every hop and connect them. Raises HopFailed."""
        self._asked = reserve
        self._send_opens(fingerprint, reserve)
        try:
            async with asyncio.timeout(OPEN_S):
                await self._unless_failed(self._connect())
        except TimeoutError as error:
            late = min(self._unopened, default=self.route[0].peer)
            raise HopFailed(late, "deadline", f"{late} did not open the session within {OPEN_S:g} s") from error

    @property
    def reserve(self) -> int:
        """Tokens that every hop holds for the session."""
        return min(self._held.get(span.peer, 0) for span in self.route)

    async def extend(self, reserve: int) -> bool:
        """True when every hop has promised to hold `reserve` tokens. Raises HopFailed.

        False when one refuses, or does not answer in time; what the others have promised they keep until `close`.
        """
        self._asked = max(self._asked, reserve)
        self._extend_all(reserve)
        try:
            async with asyncio.timeout(EXTEND_S):
                while self._unextended.total():
                    await self._next_news()
        except TimeoutError:
            return False
        return self.reserve >= reserve

    def begin_round(self, position: int) -> None:
        """What is pushed from now on starts at `position`; a position below the end rolls the caches back."""
        self._round += 1
        self._end = self._through = position
        self._answer = None

    @property
    def last_peer(self) -> PeerId:
        """Whose output this gateway reads."""
        return self.route[-1].peer

    async def push(self, hidden: Encoded, returns: Literal["none", "last"]) -> None:
        """Send hidden states `(tokens, hidden)` of the next positions into the chain.

        Waits for room in the window. Raises HopFailed, DeadlinePassed.
        """
        specs, data = hidden
        count = specs[0].shape[0]
        outlet = self.edges["steps"].outlet
        await self._until(lambda: outlet.has_room(len(data)), "a hop to take a step")
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
        """The round's last row of hidden states, `(1, width)`, when all hops have run.

        Raises HopFailed, or DeadlinePassed when the hops stand still: a long prompt takes as long as it takes. The
        row's shape is checked, its numbers are not: whoever decodes it does that, and blames `last_peer`.
        """
        await self._until(lambda: self._answer is not None and _end(self._answer[0]) == self._end, "the chain's output")
        assert self._answer
        (message, payload), self._answer = self._answer, None
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
        self._held.setdefault(peer, self._asked)
        self._unopened.discard(peer)
        if not self._unopened:
            self._opened.set()

    def hop_extended(self, peer: PeerId, reserve: int) -> None:
        if self._unextended[peer]:
            self._unextended[peer] -= 1
            self._held[peer] = max(self._held.get(peer, 0), min(reserve, self._asked))
            self._news.set()

    def hop_failed(self, error: HopFailed) -> None:
        if not self._failed.done():
            self._failed.set_exception(error)
            self._failed.exception()  # a chain that is closing may never look
            self._news.set()

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
                control.open(message, self)
            except LinkLost as error:
                raise as_hop_failure(error, span.peer) from error

    def _extend_all(self, reserve: int) -> None:
        message = Extend(session=self.session, reserve=reserve)
        for control in self._controls:
            self._unextended[control.peer] += 1
            try:
                control.send(message)
            except LinkLost as error:
                raise as_hop_failure(error, control.peer) from error

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
                on_room=self._move,
                on_output=self._receive if edge == "outputs" else None,
                on_lost=self.hop_failed,
            )
            self.edges[edge] = dialled
            await dialled.attach(edge)
        except CorollaError as error:
            raise as_hop_failure(error, peer) from error

    def _receive(self, output: Output, payload: memoryview) -> None:
        """An output without rows says only how far the hops have come: a hop may cut a step into several.

        Of a round one answer is kept at most, whatever the last hop sends.
        """
        self.edges["outputs"].inlet.taken(len(payload))
        if len(output.hops) == len(self.route):
            for span, spent in zip(self.route, output.hops, strict=True):
                self._on_hops(span.peer, spent)
        if (output.epoch, output.round) != (EPOCH, self._round):
            return  # the answer to a round that nobody waits for any more
        if output.count:
            self._answer = output, payload
        if self._through < _end(output) <= self._end:
            self._through = _end(output)
            self._move()

    def _move(self) -> None:
        """The chain has come further: those who wait may wait longer."""
        self._moved_at = asyncio.get_running_loop().time()
        self._news.set()

    def _checked(self, message: Output, payload: memoryview, width: int) -> Encoded:
        try:
            check_tensor(message.tensors, len(payload), (1, width))
        except ProtocolError as error:
            raise as_hop_failure(error, self.last_peer) from error
        return Encoded(message.tensors, payload)

    def _check(self) -> None:
        if self._failed.done():
            self._failed.result()

    async def _until(self, ready: Callable[[], bool], what: str) -> None:
        """Return when `ready`. Raises HopFailed, or DeadlinePassed when the chain has been still for too long."""
        if ready():
            return
        began = asyncio.get_running_loop().time()
        try:
            async with asyncio.timeout_at(began + STILL_S) as patience:
                while not ready():
                    await self._next_news()
                    patience.reschedule(max(began, self._moved_at) + STILL_S)
        except TimeoutError as error:
            raise DeadlinePassed(f"waited for {what}, and nothing moved for {STILL_S:g} s") from error

    async def _next_news(self) -> None:
        """Return when a hop has said something. Raises HopFailed."""
        self._check()
        self._news.clear()
        await self._news.wait()

    async def _unless_failed(self, work: Coroutine[Any, Any, None]) -> None:
        """Await `work`, but not after a hop has failed. Raises HopFailed."""
        task = asyncio.ensure_future(work)
        try:
            await asyncio.wait({task, self._failed}, return_when=asyncio.FIRST_COMPLETED)
            if not task.done():
                self._check()
            task.result()
        finally:
            task.cancel()


def _end(output: Output) -> int:
    """The position after those that an output answers for."""
    return output.position + output.count
