"""One epoch of a chain: the hops in their order, what each is told, and the edges that this gateway dials."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Protocol

from gateway.swarm.recovery import Order
from gateway.swarm.relay import Relay, RelayedEdges
from gateway.swarm.routing import Route
from shared.edges import DialledEdge, Edge, as_hop_failure
from shared.errors import CorollaError, HopFailed
from shared.pool import LinkPool
from shared.types import Fingerprint, PeerId, SessionId
from shared.wire import Open, Output, Redirect


@dataclass(frozen=True, slots=True)
class Plan:
    """What one epoch of a session looks like; edges in `relayed` lead through the gateway."""

    session: SessionId
    fingerprint: Fingerprint
    epoch: int
    reserve: int
    orders: tuple[Order, ...]
    relayed: RelayedEdges

    @property
    def route(self) -> Route:
        return tuple(order.span for order in self.orders)

    def begins_right(self, peer: PeerId, cached: int) -> bool:
        """Whether a hop that has opened the session with so many tokens has what it should."""
        return all(cached == order.length for order in self.orders if order.span.peer == peer and order.fresh)

    def messages(self, me: PeerId) -> list[Open | Redirect]:
        """What each hop is told, in their order."""
        peers = [order.span.peer for order in self.orders]
        direct = [edge not in self.relayed for edge in pairwise(peers)]
        upstreams = [me, *(peer if near else me for peer, near in zip(peers, direct, strict=False))]
        downstreams = [*(peer if near else me for peer, near in zip(peers[1:], direct, strict=True)), me]
        outputs = [*("hidden" if near else "steps" for near in direct), "hidden"]
        return [
            self._message(order, upstream, downstream, output)
            for order, upstream, downstream, output in zip(self.orders, upstreams, downstreams, outputs, strict=True)
        ]

    def _message(self, order: Order, upstream: PeerId, downstream: PeerId, output: str) -> Open | Redirect:
        place = {
            "session": self.session,
            "upstream": upstream,
            "downstream": downstream,
            "epoch": self.epoch,
            "output": output,
            "forward_from": order.forward_from,
        }
        if not order.fresh:
            return Redirect(length=order.length, **place)
        blocks = (order.span.blocks.start, order.span.blocks.end)
        parent = (order.parent, order.length) if order.parent else None
        return Open(fingerprint=self.fingerprint, blocks=blocks, reserve=self.reserve, parent=parent, **place)


class Listener(Protocol):
    """Who hears what happens on the edges: the chain."""

    def on_output(self, output: Output, payload: memoryview) -> None: ...

    def on_room(self) -> None: ...

    def on_edge_lost(self, error: HopFailed) -> None: ...


class Lineup:
    """The edges of one epoch, from `connect` to `close`."""

    def __init__(self, plan: Plan, pool: LinkPool, listener: Listener) -> None:
        self.plan = plan
        self.unready = {order.span.peer for order in plan.orders}
        self.edges: dict[tuple[PeerId, Edge], DialledEdge] = {}
        self._pool = pool
        self._listener = listener
        self.first_stands = asyncio.Event()
        self._ready = asyncio.Event()

    @property
    def first(self) -> PeerId:
        return self.plan.orders[0].span.peer

    @property
    def last(self) -> PeerId:
        return self.plan.orders[-1].span.peer

    def is_ready(self, peer: PeerId) -> None:
        """The hop has answered: its downstream edge stands."""
        self.unready.discard(peer)
        if not self.unready:
            self._ready.set()

    async def connect(self) -> None:
        """Return when all edges stand and all hops have answered. Raises HopFailed."""
        work = [self._attach_first(), self._attach_last(), *map(self._relay, self._relayed()), self._ready.wait()]
        tasks = [asyncio.ensure_future(each) for each in work]
        try:
            await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()

    def output_heard_s(self) -> float:
        """How long ago the last byte came from the last hop, in seconds."""
        edge = self.edges.get((self.last, "outputs"))
        return time.monotonic() - edge.link.heard_at if edge else 0.0

    def close(self, *, keep_links: bool) -> None:
        """Let go of the edges; their links serve others, unless they may carry nothing any more."""
        for edge in self.edges.values():
            if not edge.detach():
                continue
            if keep_links:
                self._pool.release(edge.link)
            else:
                edge.link.close("an edge of this chain was silent")
        self.edges.clear()

    def relays_for(self, receiver: PeerId) -> PeerId | None:
        """Whose steps the gateway passes on to this hop, if it does."""
        return next((sender for sender, to in self._relayed() if to == receiver), None)

    def _relayed(self) -> list[tuple[PeerId, PeerId]]:
        peers = [order.span.peer for order in self.plan.orders]
        return [edge for edge in pairwise(peers) if edge in self.plan.relayed]

    async def _attach_first(self) -> None:
        await self._attach(self.first, "steps", on_room=self._listener.on_room)
        self.first_stands.set()

    async def _attach_last(self) -> None:
        await self._attach(self.last, "outputs", on_output=self._listener.on_output)

    async def _relay(self, edge: tuple[PeerId, PeerId]) -> None:
        sender, receiver = edge
        relay = Relay(lambda error: self._listener.on_edge_lost(as_hop_failure(error, sender)))
        source = self._attach(sender, "outputs", on_step=relay.take)
        target = self._attach(receiver, "steps", on_room=relay.go_on)
        relay.connect(*await asyncio.gather(source, target))

    async def _attach(self, peer: PeerId, edge: Edge, **hooks: Any) -> DialledEdge:
        """Raises HopFailed."""
        try:
            link = await self._pool.acquire(peer)
            dialled = DialledEdge(
                link, self.plan.session, self.plan.epoch, on_lost=self._listener.on_edge_lost, **hooks
            )
            self.edges[peer, edge] = dialled
            await dialled.attach(edge)
        except CorollaError as error:
            raise as_hop_failure(error, peer) from error
        return dialled
