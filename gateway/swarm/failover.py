"""Making a broken chain whole: who is at fault, who takes their place, and what has to be sent again."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Collection, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext, suppress
from itertools import count
from typing import Protocol

from gateway.swarm.chain import Chain
from gateway.swarm.faults import EDGE_CODES
from gateway.swarm.recovery import plan
from gateway.swarm.repair import Repair
from gateway.swarm.routing import Candidate, Route, choose_route
from gateway.swarm.slowness import worth_leaving
from gateway.swarm.spare_links import SpareLinks
from shared.errors import ChainLost, HopFailed, NoRoute, OutOfCache
from shared.types import BlockRange, PeerId, Span

logger = logging.getLogger(__name__)

LOOK_AGAIN_S = 1.0
BACK_OFF_S = 0.05
SETTLE_S = 0.01
MOVE_AGAIN_S = 2.0
SLOW = "slow"
EPOCHS_LIMIT = 20
"""So many times a chain is made whole, and fails again without an output, before the limit of time ends it."""


OnRepair = Callable[[Repair], None]
"""Hears of each pause that is over."""


class Spares(Protocol):
    """The peers of the chain's model."""

    def candidates(self) -> Sequence[Candidate]:
        """All that can be used now."""
        ...

    def blame(self, error: HopFailed) -> None:
        """This peer had better be left alone for a while."""
        ...

    def ran(self, span: Span, forward_s: float) -> None:
        """The decode steps of a session take so long there now."""
        ...

    async def changed(self) -> None:
        """Return when other peers may be there, or have room."""
        ...


class ChainFailover:
    """Repairs chains over one model's peers; waits up to `wait_s` for blocks that nobody holds."""

    def __init__(
        self,
        model: str,
        blocks: int,
        spares: Spares,
        spare_links: SpareLinks,
        wait_s: float,
        on_repair: OnRepair,
        ahead: Callable[[], AbstractContextManager[None]] = nullcontext,
    ) -> None:
        """`ahead` keeps new requests waiting for as long as its context lasts."""
        self._model = model
        self._blocks = BlockRange(0, blocks)
        self._spares = spares
        self._spare_links = spare_links
        self._wait_s = wait_s
        self._on_repair = on_repair
        self._ahead = ahead

    async def recover(self, chain: Chain) -> None:
        """Give the chain hops in place of those that failed, and push again what they lack.

        Raises HopFailed when the limit is over, and ChainLost when only another chain can help.
        """
        first = chain.troubles[0]
        logger.warning("session %s: %s", chain.session[:8], first)
        chain.repair = repair = chain.repair or _begun(first, chain.still_since)
        repair.epochs += 1
        if first.code == "cache_overrun":
            raise ChainLost("a hop holds less than it promised")
        if repair.epochs > EPOCHS_LIMIT and repair.seconds > self._wait_s:
            raise first
        if first.code in EDGE_CODES:
            await asyncio.sleep(SETTLE_S)  # where the edge was lost because a hop died, its control link goes with it
        with ExitStack() as line:
            await self._until_lined_up(chain, repair, first, line)

    async def _until_lined_up(self, chain: Chain, repair: Repair, first: HopFailed, line: ExitStack) -> None:
        """Try until an epoch stands. A chain that lacks room stands in `line` for it, before new requests."""
        uncovered_since, in_line = None, False
        for attempts in count():
            try:
                repair.replayed_tokens += await self._attempt(chain, careless=attempts == 0)
                return
            except HopFailed as error:
                self._note(chain, error)
                if attempts >= EPOCHS_LIMIT and repair.seconds > self._wait_s:
                    raise
                uncovered_since = None
                await asyncio.sleep(min(attempts * BACK_OFF_S, LOOK_AGAIN_S))
            except (NoRoute, OutOfCache) as error:
                self._check_hope(chain)
                chain.faults.excluded.clear()  # nobody else is there: any of them may be better by now
                uncovered_since = uncovered_since or time.monotonic()
                if time.monotonic() - uncovered_since > self._wait_s:
                    reason = f"{first}; no other peers took its place within {self._wait_s:g} s: {error}"
                    raise HopFailed(first.peer, first.code, reason) from error
                if isinstance(error, OutOfCache) and not in_line:
                    in_line = True
                    line.enter_context(self._ahead())
                await self._change()

    async def move(self, chain: Chain) -> None:
        """Leave the hops in `chain.leaving`, if others can take their place now; else the chain stays as it is."""
        chain.move_after = time.monotonic() + MOVE_AGAIN_S
        chain.leaving = {span.peer: chain.leaving[span.peer] for span in chain.route if span.peer in chain.leaving}
        if not chain.leaving:
            return
        peer = min(chain.leaving, key=lambda each: chain.leaving[each] == SLOW)  # who drains goes first
        before, repair = chain.route, Repair(chain.leaving[peer], peer, time.monotonic(), is_move=True)
        try:
            repair.replayed_tokens = await self._attempt(chain, leaving={peer})
        except (NoRoute, OutOfCache):
            return
        except HopFailed as error:
            self._learn(chain, error)
            chain.route = before  # whoever was to be left still has its cache
            self._note(chain, error)
        else:
            chain.repair = repair

    def look_around(self, chain: Chain) -> None:
        """Have links to spares, and remember how slow the hops are: the chain leaves one when that helps."""
        chain.leaving = {peer: reason for peer, reason in chain.leaving.items() if reason != SLOW}
        candidates = self._spares.candidates()
        self._spare_links.prepare(chain.route, candidates)
        for span in chain.route:
            forward_s = chain.speeds.forward_s(span.peer)
            if forward_s is not None:
                self._spares.ran(span, forward_s)
        slow = worth_leaving(
            chain.route, chain.speeds, candidates, chain.progress.end, chain.reserve - chain.progress.end
        )
        if slow:
            chain.leaving[slow] = SLOW

    def repaired(self, chain: Chain, repair: Repair) -> None:
        """The first output since has come."""
        logger.warning(
            "session %s goes on after %.2f s (%s: %s); %d tokens were run again",
            chain.session[:8], repair.seconds, repair.peer, repair.code, repair.replayed_tokens,
        )  # fmt: skip
        self._on_repair(repair)

    async def _attempt(self, chain: Chain, leaving: Collection[PeerId] = (), *, careless: bool = False) -> int:
        """One new epoch; the tokens that some hop has to run again. Raises HopFailed, NoRoute, OutOfCache.

        Hops are asked what they have, unless a `careless` attempt may go by what the last output tells.
        """
        for error in chain.troubles:
            self._learn(chain, error)
        chain.troubles.clear()
        excluded = {*chain.faults.excluded, *leaving}
        standings, silent = chain.certain() if careless else {}, set[PeerId]()
        if not standings:
            standings, silent = await chain.standings()
            if leaving and chain.troubles:
                raise chain.troubles[0]
            chain.troubles.clear()
        chain.faults.silent = silent
        standings = {peer: standing for peer, standing in standings.items() if peer not in excluded}
        without = {*excluded, *silent, *standings}
        progress = chain.progress

        def replace(blocks: BlockRange) -> Route:
            spans = self._spans(blocks, chain.asked, without)
            without.update(span.peer for span in spans)  # nobody has two places in a chain
            return spans

        orders = plan(chain.route, standings, replace, progress.answered)
        await chain.line_up(orders, orders[0].length)
        return progress.end - min(order.length for order in orders)

    def _spans(self, blocks: BlockRange, reserve: int, without: Collection[PeerId]) -> Route:
        """Raises NoRoute, OutOfCache."""
        candidates = [each for each in self._spares.candidates() if each.peer not in without]
        return choose_route(candidates, self._model, blocks, reserve)

    def _learn(self, chain: Chain, error: HopFailed) -> None:
        chain.faults.judge(error, chain.route)
        self._spares.blame(error)

    def _note(self, chain: Chain, error: HopFailed) -> None:
        """What was raised counts as trouble, if nobody has told of it yet."""
        if error not in chain.troubles:
            chain.troubles.append(error)

    def _check_hope(self, chain: Chain) -> None:
        """Raises ChainLost when other spans, of the hops that are left too, cover all blocks."""
        with suppress(NoRoute, OutOfCache):
            self._spans(self._blocks, chain.asked, {*chain.faults.excluded, *chain.faults.silent})
            raise ChainLost("what is left of the peers can only serve another chain")

    async def _change(self) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(LOOK_AGAIN_S):
                await self._spares.changed()


def _begun(error: HopFailed, still_since: float) -> Repair:
    """A pause that was noticed now; the chain has stood still since a time by the monotonic clock."""
    repair = Repair(error.code, error.peer, still_since)
    repair.detection_s = repair.seconds
    return repair
