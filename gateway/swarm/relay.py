"""An edge between two hops that cannot reach each other: the gateway passes their frames on."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable

from shared.edges import DialledEdge
from shared.errors import FrameError, LinkLost
from shared.tensors import check_step
from shared.types import PeerId
from shared.wire import Step

TRY_AGAIN_S = 600.0


class RelayedEdges:
    """Pairs of peers that could not reach each other, in either direction; tried again after ten minutes."""

    def __init__(self) -> None:
        self._learnt_at: dict[frozenset[PeerId], float] = {}

    def __contains__(self, edge: tuple[PeerId, PeerId]) -> bool:
        learnt_at = self._learnt_at.get(frozenset(edge))
        return learnt_at is not None and time.monotonic() - learnt_at < TRY_AGAIN_S

    def add(self, edge: tuple[PeerId, PeerId]) -> None:
        now = time.monotonic()
        self._learnt_at = {pair: at for pair, at in self._learnt_at.items() if now - at < TRY_AGAIN_S}
        self._learnt_at[frozenset(edge)] = now


class Relay:
    """Passes on steps in order, as the window of the next hop allows; that of the hop before bounds what waits here."""

    def __init__(self, on_bad_step: Callable[[FrameError], None]) -> None:
        self._on_bad_step = on_bad_step
        self._edges: tuple[DialledEdge, DialledEdge] | None = None
        self._waiting: deque[tuple[Step, memoryview]] = deque()

    def connect(self, source: DialledEdge, target: DialledEdge) -> None:
        """Both edges stand: from the hop before, and to the next one."""
        self._edges = (source, target)
        self.go_on()

    def take(self, step: Step, payload: memoryview) -> None:
        """The hop before has sent this: it must be what it says; the next one judges whether that is in order."""
        try:
            check_step(step, payload)
        except FrameError as error:
            self._on_bad_step(error)
            return
        self._waiting.append((step, payload))
        self.go_on()

    def go_on(self) -> None:
        """Pass on what there is room for."""
        while self._waiting and self._edges:
            source, target = self._edges
            step, payload = self._waiting[0]
            if not target.outlet.has_room(len(payload)):
                return
            self._waiting.popleft()
            try:
                target.outlet.send(step, payload)
            except LinkLost:
                return  # the edge tells of its loss itself
            source.inlet.taken(len(payload))
