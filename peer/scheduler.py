"""The queue before the torch thread: collects what waits, runs it as one forward, sends on what comes out.

Policy alone: tensors and caches are the runner's, on the torch thread. Between two forwards caches are copied, and
sessions freed that were closed meanwhile.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass

import msgspec

from peer.batch import Share, is_rebuilt, plan
from peer.forks import Fork, Forks
from peer.gathering import Gathering
from peer.model.blocks import Blocks
from peer.pace import REBUILD_S, Pace
from peer.runner import Results, Runner
from peer.sessions import Fail, Session, Sessions, Waiting
from peer.turns import Turns
from shared.edges import Outlet, as_hop_failure
from shared.errors import CorollaError, HopFailed, LinkLost
from shared.tensors import Encoded
from shared.types import PeerId
from shared.wire import Output, Step

COPIES_PART = 0.5
"""Of the time of a decode step: so long copies of caches may go on between two forwards. One is made in any case."""


@dataclass(frozen=True, slots=True)
class Forward:
    """What one forward was, for those who count: sessions, tokens of decode steps and of prompts, seconds."""

    sessions: int
    decode_tokens: int
    prefill_tokens: int
    seconds: float
    queued_s: float
    """Longest time that a step of it had waited."""


class Scheduler:
    """Runs the steps of all sessions; `on_failure` hears of sessions whose step cannot be run."""

    def __init__(
        self,
        me: PeerId,
        blocks: Blocks,
        sessions: Sessions,
        on_failure: Fail,
        pace: Pace,
        gathering: Gathering,
        on_forward: Callable[[Forward], None] = lambda forward: None,
    ) -> None:
        self.blocks = blocks
        self._runner = Runner(me, blocks)
        self._sessions = sessions
        self._on_failure = on_failure
        self._pace = pace
        self._on_forward = on_forward
        self._gathering = gathering
        self._turns = Turns(one_at_a_time=not blocks.batches)
        self.token_bytes = blocks.hidden_size * blocks.dtype.itemsize
        self._wake = asyncio.Event()
        self._running: list[Session] = []
        self._forks = Forks()
        self._started: float | None = None
        self.forwards = 0
        """Forwards, and copies of caches, that are over."""
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="torch")

    def enqueue(self, session: Session, step: Step, payload: memoryview) -> None:
        """Queue a step that the session's cursor has admitted."""
        session.queue.append(Waiting(step, payload, time.monotonic()))
        self._turns.add(session)
        self._wake.set()

    def wake(self) -> None:
        """Look again: an edge that was full has room."""
        self._wake.set()

    def runs(self, session: Session) -> bool:
        """True while a forward has steps of this session."""
        return session in self._running

    @property
    def forward_s(self) -> float:
        """Age of the forward, or of the copy of a cache, that runs now; 0 while none does."""
        return time.monotonic() - self._started if self._started is not None else 0.0

    def fenced(self, session: Session) -> None:
        """Its steps wait no more."""
        self._turns.remove(session)
        self._gathering.forget(session)

    def closed(self, session: Session) -> None:
        """Free a session that was closed, now or when what the torch thread does with it is over."""
        self.fenced(session)
        if fork := self._forks.withdraw(session):
            self._free_if_unused(fork.parent)
        self._free_if_unused(session)

    def fork(self, session: Session, parent: Session) -> None:
        """Copy the parent's cache to that of a new session, before any further step of either runs."""
        self._forks.add(session, parent)
        self._wake.set()

    async def forked(self, session: Session) -> None:
        """Return when nothing is to be copied to the session's cache; where that has failed, it is fenced."""
        if fork := self._forks.of(session):
            await fork.over.wait()

    async def run(self) -> None:
        """Serve for ever."""
        while True:
            if self._forks.any_wait:
                await self._copy()
            shares = self._turns.next(self._plan)
            if shares and self.blocks.batches and not self._gathering.enough(shares):
                shares = await self._gather(shares)
            if shares:
                self._turns.serve(shares)
                await self._serve(shares)
            elif not self._forks.any_wait:
                self._wake.clear()
                await self._wake.wait()

    async def _gather(self, shares: list[Share]) -> list[Share]:
        """Wait for more sessions than these, but no longer than a decode step takes; the shares that can run then."""
        began = asyncio.get_running_loop().time()
        with suppress(TimeoutError):
            async with asyncio.timeout(None) as patience:
                while shares and not self._gathering.enough(shares):
                    patience.reschedule(began + self._gathering.patience(shares) * self._pace.decode_s)
                    self._wake.clear()
                    await self._wake.wait()
                    shares = self._turns.next(self._plan)
        return self._turns.next(self._plan)  # a session that has ended meanwhile wakes nobody

    def stop(self) -> None:
        self._thread.shutdown(wait=False, cancel_futures=True)

    def _plan(self, sessions: Sequence[Session]) -> list[Share]:
        sessions = [session for session in sessions if not self._forks.holds(session)]
        alone = len(sessions) == len(self._sessions) and all(is_rebuilt(session) for session in sessions)
        tokens = self._pace.prefill_tokens(REBUILD_S) if alone else self._pace.prefill_tokens()
        return plan(sessions, tokens, self.token_bytes)

    async def _copy(self) -> None:
        """Make copies of caches that wait: one, and others as long as they hold up the next forward but little."""
        began = time.monotonic()
        while self._forks.any_wait:
            await self._make(self._forks.begin())
            if time.monotonic() - began >= COPIES_PART * self._pace.decode_s:
                return

    async def _make(self, fork: Fork) -> None:
        session, parent = fork.session, fork.parent
        self._started = time.monotonic()
        try:
            loop = asyncio.get_running_loop()
            await loop.run_in_executor(self._thread, self._runner.fork, session.cache, parent.cache, session.done)
        except HopFailed as error:
            self._on_failure(session, error)
        finally:
            self._started = None
            self.forwards += 1
            self._forks.end(fork)
            self._free_if_unused(session)
            self._free_if_unused(parent)

    async def _serve(self, shares: list[Share]) -> None:
        self._running = [share.session for share in shares]
        for share in shares:
            _take(share)
        self._started = started = time.monotonic()
        try:
            loop = asyncio.get_running_loop()
            results = await loop.run_in_executor(self._thread, self._runner.run, shares, started)
            seconds = time.monotonic() - started
            for share, result in zip(shares, results, strict=True):
                self._deliver(share, result)
            whole = not any(isinstance(result, CorollaError) for result in results)
            self._count(shares, started, seconds, whole)
        finally:
            self._running, self._started = [], None
            self.forwards += 1
            for share in shares:
                self._return(share.session)

    def _deliver(self, share: Share, result: Results) -> None:
        """Send a share's results to the next hop, unless its session has ended, or was redirected, meanwhile."""
        session = share.session
        stale = share.slices[0].waiting.step.epoch != session.cursor.epoch
        if session.closed or session.fenced or stale or session.outlet is None:
            return
        if not share.prefills:
            self._gathering.ran(session)
        if isinstance(result, CorollaError):
            self._on_failure(session, result)
            return
        try:
            for message, payload in result:
                _send_on(session, session.outlet, message, payload)
        except LinkLost as error:
            self._on_failure(session, as_hop_failure(error, session.downstream))

    def _free_if_unused(self, session: Session) -> None:
        """Free a session if it is closed, unless the torch thread uses its cache, or is to copy it."""
        if session.closed and session not in self._running and not self._forks.holds(session):
            self._sessions.free(session)

    def _return(self, session: Session) -> None:
        if session.closed:
            self._free_if_unused(session)
        elif session.queue:
            head = session.queue[0]
            head.since = time.monotonic() if head.done else head.since  # what is left of it waits from now on
            self._turns.add(session)

    def _count(self, shares: list[Share], started: float, seconds: float, whole: bool) -> None:
        """Tell how long these shares took; only where the `whole` of them ran is that a measure of anything."""
        prefill = sum(share.tokens for share in shares if share.prefills)
        tokens = sum(share.tokens for share in shares)
        if whole:
            self._pace.observe(tokens, prefill, seconds)
        queued_s = max(started - part.waiting.since for share in shares for part in share.slices)
        self._on_forward(Forward(len(shares), tokens - prefill, prefill, seconds, queued_s))


def _take(share: Share) -> None:
    """Take a share's slices out of the queue, and make room in the window for what comes next."""
    session = share.session
    for part in share.slices:
        part.waiting.done = part.end
        if not part.waiting.left:
            session.queue.popleft()
        if session.inlet:
            session.inlet.taken(part.payload_bytes)


def _send_on(session: Session, outlet: Outlet, message: Step | Output, payload: memoryview) -> None:
    """Send what was made, and keep it for whoever takes the next hop's place. Raises LinkLost."""
    session.done, session.done_round = message.position + message.count, message.round
    if isinstance(message, Step):
        session.outbox.append(message.position, Encoded(message.tensors, payload))
        if session.done <= session.forward_from:
            return  # the hops after this one have that
        message, payload = _rows_from(session.forward_from, message, payload)
        session.forward_from = 0  # a later round may crop as far as it likes
    outlet.send(message, payload)


def _rows_from(first: int, step: Step, payload: memoryview) -> tuple[Step, memoryview]:
    """What a step says of positions from `first` on."""
    skipped = first - step.position
    if skipped <= 0:
        return step, payload
    spec, count = step.tensors[0], step.count - skipped
    specs = (msgspec.structs.replace(spec, shape=(count, spec.shape[1])),)
    kept = payload[len(payload) // step.count * skipped :]
    return msgspec.structs.replace(step, position=first, count=count, tensors=specs), kept
