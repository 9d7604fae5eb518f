"""A chain: one session over a route of peers. Knows hidden states and links; knows nothing of tokens or text.

What goes wrong between `open` and `close` costs a pause: `gateway.swarm.failover` finds other peers, which are given
what those before them have kept, or what this chain embeds again.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine, Mapping
from contextlib import asynccontextmanager
from typing import Any, Protocol

import msgspec

from gateway.swarm.control import Control
from gateway.swarm.faults import Faults, Look, suspect
from gateway.swarm.hops import Hops
from gateway.swarm.lineup import Lineup, Plan
from gateway.swarm.patience import Patience
from gateway.swarm.progress import Answer, Progress
from gateway.swarm.recovery import Order, Standing
from gateway.swarm.relay import RelayedEdges
from gateway.swarm.repair import Repair
from gateway.swarm.routing import Route
from gateway.swarm.slowness import HopSpeeds
from shared.changes import Changes
from shared.edges import as_hop_failure
from shared.errors import HopFailed, LinkLost, ProtocolError
from shared.pool import LinkPool
from shared.tensors import Encoded, check_output, check_tensor
from shared.types import Fingerprint, PeerId, SessionId
from shared.wire import (
    Extended,
    Failure,
    HopTime,
    Opened,
    Output,
    Redirected,
    Report,
    Returns,
    Step,
)

OPEN_S = 10.0
TROUBLES_LIMIT = 32  # more than that says nothing new
LOOK_OUTPUTS = 16  # between two looks around

OnHops = Callable[[PeerId, HopTime], None]
"""Hears what a hop spent on a step."""

Inputs = Callable[[int, int], AsyncIterator[Encoded]]
"""The embeddings of positions [start, end), in order, in pieces that fit into frames."""


class Failover(Protocol):
    """Who makes a broken chain whole."""

    async def recover(self, chain: Chain) -> None:
        """Raises HopFailed or ChainLost when that cannot be."""
        ...

    async def move(self, chain: Chain) -> None:
        """Leave the hops in `chain.leaving`, if there are others."""
        ...

    def look_around(self, chain: Chain) -> None:
        """The chain works: time to think of what may come, and whether a hop in it had better be left."""
        ...

    def repaired(self, chain: Chain, repair: Repair) -> None:
        """An output has come from a chain that was broken or moved."""
        ...


class Chain:
    """The gateway's handle on a session: `open`, then rounds of `push` and one `output` each, then `close`.

    A round that asks for all rows has `rows` instead. `extend` and `fork` may run beside them.
    """

    def __init__(
        self,
        me: PeerId,
        route: Route,
        controls: Mapping[PeerId, Control],
        pool: LinkPool,
        failover: Failover,
        relayed: RelayedEdges,
        on_hops: OnHops = lambda peer, spent: None,
        numerics: str = "",
    ) -> None:
        """`relayed` are the edges that lead through this gateway; what this chain learns of them it adds.

        `numerics` names what the peers of the route compute with.
        """
        self.numerics = numerics
        self.session = SessionId(secrets.token_hex(16))
        self.route = route
        self.me = me
        self.epoch = 0
        self.troubles: list[HopFailed] = []  # since the last line-up
        self.faults = Faults(me, relayed)  # since the last output
        self.repair: Repair | None = None  # since then too
        self.leaving: dict[PeerId, str] = {}  # hops that had better be left, and why
        self.move_after = 0.0  # by the monotonic clock, as
        self.still_since = time.monotonic()
        self.speeds = HopSpeeds()
        self._controls = controls
        self._pool = pool
        self._failover = failover
        self._on_hops = on_hops
        self.lineup: Lineup | None = None
        self._looked: Look | None = None  # since the chain last moved
        self._news = Changes()
        self._hops = Hops(self.session, controls, self, self._news)
        self._patience = Patience()
        self._delivered = False  # the last answer has left, and was not rejected
        self._outputs = 0
        self._edges_are_good = True  # none was found silent in this epoch
        self._decodes = False  # the step that was pushed last
        self.progress = Progress()
        self._copied = 0  # tokens that this chain has from another one, and no outbox has
        self._width = 0  # of the hidden states that were pushed
        self.asked = 0  # tokens of cache that whoever joins the route has to hold

    async def open(self, fingerprint: Fingerprint, reserve: int, inputs: Inputs) -> None:
        """Reserve `reserve` tokens on every hop and connect them; `inputs` gives again what was pushed.

        Raises HopFailed.
        """
        self._fingerprint, self._inputs, self.asked = fingerprint, inputs, reserve
        await self.line_up(tuple(Order(span, 0, 0, fresh=True) for span in self.route), 0)

    @asynccontextmanager
    async def fork(self, length: int, reserve: int, inputs: Inputs) -> AsyncGenerator[Chain, None]:
        """A chain over the same hops, on each of which it begins with a copy of this one's first `length` tokens.

        Its output of these has come; `inputs` gives what the fork has there, and what is pushed into it. Raises
        HopFailed when a hop has no room, has dropped what a sliding window no longer reaches, or cannot fork.
        """
        fork = Chain(
            self.me, self.route, self._controls, self._pool, self._failover, self.faults.relayed, self._on_hops,
            self.numerics,
        )  # fmt: skip
        try:
            await fork._open_as_copy(self, length, reserve, inputs)
            yield fork
        finally:
            fork.close()

    async def _open_as_copy(self, parent: Chain, length: int, reserve: int, inputs: Inputs) -> None:
        self._fingerprint, self._inputs, self.asked = parent._fingerprint, inputs, reserve
        self.progress, self._copied = Progress(length), length
        orders = [Order(span, length, 0, fresh=True, parent=parent.session) for span in self.route]
        await self.line_up(tuple(orders), length)

    @property
    def reserve(self) -> int:
        """Tokens that every hop holds for the session; a hop that was lost is replaced by one that holds as many."""
        held = self._hops.held([span.peer for span in self.route])
        return self.asked if held is None else held

    async def extend(self, reserve: int) -> bool:
        """True when every hop has promised to hold `reserve` tokens.

        False when one refuses, or does not answer in time; what the others have promised they keep until `close`.
        """
        self.asked = max(self.asked, reserve)
        return await self._hops.extend([span.peer for span in self.route], reserve) and self.reserve >= reserve

    def begin_round(self, position: int) -> None:
        """What is pushed from now on starts at `position`; a position below the end rolls the caches back."""
        self._accept()
        self.progress.begin_round(position)

    @property
    def last_peer(self) -> PeerId:
        """Whose output this gateway reads."""
        return self.route[-1].peer

    async def push(self, hidden: Encoded, returns: Returns) -> None:
        """Send hidden states `(tokens, hidden)` of the next positions into the chain.

        Waits for room in the window. A chain that breaks meanwhile gets them again when `output` makes it whole.
        """
        position = self.progress.end
        count, self._width = hidden.specs[0].shape
        self.progress.pushed(count, returns)
        await self._push(position, hidden, returns)

    async def output(self, width: int) -> Encoded:
        """The round's last row of hidden states, `(1, width)`, when all hops have run.

        A long prompt takes as long as it takes, and a chain that breaks is made whole. Raises what that raises when it
        cannot be. The row's shape is checked, its numbers are not: whoever decodes it does that, and tells `reject`.
        """
        while True:
            await self._until_come(lambda: self.progress.is_out)
            if row := self._checked(self.progress.take(), (1, width)):
                return row

    async def rows(self, width: int) -> Encoded:
        """The next rows of a round that asks for all: at least one, `(rows, width)`, in the order of their positions.

        What was pushed and not taken here is held in memory. Else as `output`.
        """
        self._accept()
        while True:
            if not self.progress.has_rows:  # else they are taken first: they are of the hop that is the last one now
                await self._until_come(lambda: self.progress.has_rows)
            answer = self.progress.take_rows()
            if rows := self._checked(answer, (answer[0].count, width)):
                return rows

    def reject(self, error: HopFailed) -> None:
        """The last output, or the last rows, cannot be used: the next are of the same positions, from other peers."""
        self._delivered = False
        self.progress.reject_rows()
        self._trouble(error)

    def close(self) -> None:
        """Free the caches on all hops and give the links back."""
        self._accept()
        if self.lineup:
            self.lineup.close(keep_links=self._edges_are_good)
        self._hops.let_go()

    async def _until_come(self, come: Callable[[], bool]) -> None:
        """Return when what was asked for has `come`; a chain that breaks meanwhile is made whole."""
        while True:
            if self.leaving and not self.troubles and time.monotonic() > self.move_after:
                await self._failover.move(self)
            await self._until(come)
            if come():
                return
            await self._failover.recover(self)

    def _checked(self, answer: Answer, shape: tuple[int, int]) -> Encoded | None:
        """What has come, if it has this shape; else it is rejected."""
        message, payload = answer
        try:
            check_tensor(message.tensors, len(payload), shape)
        except ProtocolError as error:
            self.reject(as_hop_failure(error, self.last_peer))
            return None
        self._delivered = True
        return Encoded(message.tensors, payload)

    # What recovery needs

    async def look(self) -> Look:
        """What the hops say of the session; who is not linked, has lost it or does not answer in time is left out."""
        reports, silent = await self._hops.reports([span.peer for span in self.route])
        for peer in silent:
            self._trouble(HopFailed(peer, "deadline", f"{peer} does not say how far it is"))
        return Look(reports, {peer: self.progress.right(report) for peer, report in reports.items()})

    def certain(self) -> dict[PeerId, Standing]:
        """What the hops that are linked must have, since what they made of it has come out: nobody needs to be asked.

        Empty where some may lack what was pushed, or where none has lost its link and so anyone may be at fault; and
        for a fork, whose outboxes begin where the copy ends.
        """
        linked = [span.peer for span in self.route if self._hops.is_linked(span.peer)]
        if self._copied or not self.progress.is_certain or len(linked) == len(self.route):
            return {}
        return {peer: Standing(self.progress.answered, shallowest=0, outbox_from=0) for peer in linked}

    async def standings(self) -> tuple[dict[PeerId, Standing], set[PeerId]]:
        """What the hops say that they have, and who is linked and does not answer."""
        look = await self.look()
        silent = {error.peer for error in self.troubles if error.code == "deadline"}
        standings = {
            peer: Standing(look.lengths[peer], report.shallowest, report.outbox_from)
            for peer, report in look.reports.items()
        }
        return standings, silent

    async def line_up(self, orders: tuple[Order, ...], start: int) -> None:
        """Begin a new epoch: tell each hop its place, connect, and let go of who has none.

        What was pushed of positions from `start` on is pushed again as soon as the first hop is connected. Raises
        HopFailed.
        """
        if self.lineup:
            self.lineup.close(keep_links=self._edges_are_good)
        self.epoch = self.progress.begin_epoch()
        self._looked, self._edges_are_good = None, True
        self.troubles.clear()
        self.speeds = HopSpeeds()
        plan = Plan(self.session, self._fingerprint, self.epoch, self.asked, orders, self.faults.relayed)
        self.route, self.lineup = plan.route, Lineup(plan, self._pool, self)
        try:
            for span, message in zip(self.route, plan.messages(self.me), strict=True):
                self._hops.engage(span.peer, message)
            await self._connect_and_feed(self.lineup, start)
        except HopFailed:
            self.epoch = self.progress.begin_epoch()  # what hops still wait for in this one is no fault of anybody's
            raise
        self._hops.let_go(but={span.peer for span in self.route})

    async def _connect_and_feed(self, lineup: Lineup, start: int) -> None:
        feeding = asyncio.ensure_future(self._feed(lineup, start))
        try:
            await self._stands(lineup)
            await feeding
        finally:
            feeding.cancel()
            await asyncio.gather(feeding, return_exceptions=True)

    async def _feed(self, lineup: Lineup, start: int) -> None:
        """Push again what was pushed of positions from `start` on, once the first hop is connected."""
        end, answered, returns = self.progress.end, self.progress.answered, self.progress.returns
        if start == end:
            return
        await lineup.first_stands.wait()
        if returns == "all":  # no step has rows that are there already and others that are not
            await self._feed_part(start, answered, "none", "none")
            await self._feed_part(max(start, answered), end, "all", "all")
        else:
            await self._feed_part(start, end, "none", returns)

    async def _feed_part(self, start: int, end: int, returns: Returns, at_last: Returns) -> None:
        """Push [start, end) again; `at_last` is what is asked for with the last piece."""
        if start >= end:
            return
        async for hidden in self._inputs(start, end):
            count = hidden.specs[0].shape[0]
            await self._push(start, hidden, at_last if start + count == end else returns)
            start += count

    # What the control links tell

    def hop_said(self, peer: PeerId, message: Opened | Redirected | Extended | Report | Failure) -> None:
        match message:
            case Opened():
                self._opened(peer, message.cached)
            case Redirected() if message.epoch == self.epoch:
                self._ready(peer)
            case Extended():
                self._hops.extended(peer, message, self.asked)
            case Report():
                self._hops.reported(peer, message)
            case Failure():
                self._refused(peer, message)
            case _:
                pass  # late
        self._news.notify()

    def hop_lost(self, peer: PeerId, reason: str) -> None:
        self._hops.lost_link(peer)
        if any(span.peer == peer for span in self.route):
            self._trouble(HopFailed(peer, "lost", f"{peer} was lost: {reason}"))
        self._news.notify()

    def hop_drains(self, peer: PeerId) -> None:
        self.leaving[peer] = "drained"

    # What the edges tell

    def on_output(self, output: Output, payload: memoryview) -> None:
        """An output without rows says only how far the hops have come: a hop may cut a step into several."""
        assert self.lineup
        self.lineup.edges[self.last_peer, "outputs"].inlet.taken(len(payload))
        if output.epoch != self.epoch:
            return
        if len(output.hops) == len(self.route):
            for span, spent in zip(self.route, output.hops, strict=True):
                self._on_hops(span.peer, spent)
                if self._decodes:
                    self.speeds.observe(span.peer, spent)
        try:
            if output.count:
                check_output(output, payload, self._width)
            further = self.progress.came(output, payload)
        except ProtocolError as error:
            self._trouble(as_hop_failure(error, self.last_peer))
            return
        if further:
            if self.progress.is_out:
                self._patience.answered(asyncio.get_running_loop().time())
            self._moved()

    def on_room(self) -> None:
        self._moved()

    def on_edge_lost(self, error: HopFailed) -> None:
        self._trouble(error)

    def _moved(self) -> None:
        """The chain has come further: those who wait may wait longer."""
        self.still_since = time.monotonic()
        self._patience.moved(asyncio.get_running_loop().time())
        self._looked = None
        self._news.notify()

    def _accept(self) -> None:
        """The last output was not rejected: what was thought of peers before is forgotten."""
        if not self._delivered:
            return
        self._delivered = False
        self._outputs += 1
        self.faults.forget()
        if self.repair:
            repair, self.repair = self.repair, None
            self._failover.repaired(self, repair)
        if self._outputs % LOOK_OUTPUTS == 1:
            self._failover.look_around(self)

    def _opened(self, peer: PeerId, cached: int) -> None:
        """A hop that does not know what a fork is opens an empty session."""
        if self.lineup and not self.lineup.plan.begins_right(peer, cached):
            reason = f"{peer} holds {cached} tokens of a session that was to begin as a copy of another"
            self._trouble(HopFailed(peer, "cannot_fork", reason))
            return
        if self.lineup:
            self._hops.opened(peer, self.lineup.plan.reserve)
        self._ready(peer)

    def _ready(self, peer: PeerId) -> None:
        if self.lineup:
            self.lineup.is_ready(peer)

    def _refused(self, peer: PeerId, failure: Failure) -> None:
        if failure.epoch is not None and failure.epoch < self.epoch:
            return  # what broke in an earlier epoch is mended, or being mended
        if not failure.kept:
            self._hops.lost_session(peer)
        blamed = PeerId(failure.peer or peer)
        if blamed == self.me and self.lineup:
            blamed = self.lineup.relays_for(peer) or blamed  # it has passed on what another hop made
        if blamed not in self._beside(peer):
            failure = msgspec.structs.replace(failure, code="protocol", reason=f"{peer} accuses {blamed}, far from it")
            blamed = peer
        self._trouble(HopFailed(blamed, failure.code, failure.reason, teller=peer))

    def _beside(self, peer: PeerId) -> set[PeerId]:
        """Of whom a hop can tell: itself, and the nodes before and after it."""
        nodes = [self.me, *(span.peer for span in self.route), self.me]
        around = (trio for trio in zip(nodes, nodes[1:], nodes[2:], strict=False) if trio[1] == peer)
        return {peer, *(node for trio in around for node in trio)}

    def _trouble(self, error: HopFailed) -> None:
        if len(self.troubles) < TROUBLES_LIMIT:
            self.troubles.append(error)
        self._edges_are_good &= error.code != "edge_silent"
        self._news.notify()

    async def _push(self, position: int, hidden: Encoded, returns: Returns) -> None:
        if self.troubles:
            return
        assert self.lineup
        specs, data = hidden
        lineup = self.lineup
        outlet = lineup.edges[lineup.first, "steps"].outlet
        await self._until(lambda: outlet.has_room(len(data)))
        if self.troubles:
            return
        step = Step(
            session=self.session,
            epoch=self.epoch,
            round=self.progress.round,
            position=position,
            count=specs[0].shape[0],
            returns=returns,
            tensors=specs,
        )
        self.still_since = time.monotonic()
        self._decodes = self.progress.decodes
        self._patience.pushed(asyncio.get_running_loop().time(), decodes=self._decodes)
        try:
            outlet.send(step, data)
        except LinkLost as error:
            self._trouble(HopFailed(lineup.first, "edge_lost", str(error)))

    async def _stands(self, lineup: Lineup) -> None:
        """Return when all edges stand. Raises HopFailed."""
        try:
            async with asyncio.timeout(OPEN_S):
                await self._unless_broken(lineup.connect())
        except TimeoutError as error:
            late = min(lineup.unready, default=lineup.first)
            raise HopFailed(late, "deadline", f"{late} did not open the session within {OPEN_S:g} s") from error

    async def _until(self, ready: Callable[[], bool]) -> None:
        """Return when `ready`, or when there is trouble: told by others, or found because nothing moves."""
        self._patience.moved(asyncio.get_running_loop().time())
        while not ready() and not self.troubles:
            try:
                async with asyncio.timeout_at(self._patience.ends_at):
                    await self._news.wait()
            except TimeoutError:
                await self._inquire()

    async def _inquire(self) -> None:
        """Nothing has moved for longer than it should: ask everybody, and find who is at fault."""
        now = await self.look()
        if not self.troubles and len(now.reports) == len(self.route):
            heard_s = self.lineup.output_heard_s() if self.lineup else 0.0
            found = suspect(self.route, self.progress.end, now, self._looked, self._hops.forward_s, heard_s)
            if found:
                self._trouble(found)
        self._looked = now
        self._patience.moved(asyncio.get_running_loop().time())

    async def _unless_broken(self, work: Coroutine[Any, Any, None]) -> None:
        """Await `work`, but not after something went wrong. Raises HopFailed."""
        task = asyncio.ensure_future(work)
        task.add_done_callback(lambda _: self._news.notify())
        try:
            while not task.done() and not self.troubles:
                await self._news.wait()
            if not task.done():
                raise self.troubles[0]
            task.result()
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
