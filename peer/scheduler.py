"""The queue before the torch thread: which session's step runs next. One forward at a time.

Only the torch thread touches caches; a session that is closed meanwhile is freed between two forwards.
"""

from __future__ import annotations

import asyncio
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import msgspec
import torch

from peer.model.blocks import Blocks
from peer.sessions import Fail, Session, Sessions
from shared.edges import as_hop_failure
from shared.errors import CorollaError, HopFailed, LinkLost
from shared.tensors import Encoded, check_finite, decode_hidden, encode_hidden
from shared.types import PeerId
from shared.wire import Output, Step


@dataclass(frozen=True, slots=True)
class Result:
    """What a forward sends on: a Step for the next hop, or the Output for the gateway."""

    message: Step | Output
    payload: memoryview


class Scheduler:
    """Runs the steps of all sessions, taking turns; `on_failure` hears of sessions whose step cannot be run."""

    def __init__(self, me: PeerId, blocks: Blocks, sessions: Sessions, on_failure: Fail) -> None:
        self._me = me
        self.blocks = blocks
        self._sessions = sessions
        self._on_failure = on_failure
        self._turns: deque[Session] = deque()
        self._wake = asyncio.Event()
        self._running: Session | None = None
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="torch")

    def enqueue(self, session: Session, step: Step, payload: memoryview) -> None:
        """Queue a step that the session's cursor has admitted."""
        session.queue.append((step, payload))
        if session not in self._turns and session is not self._running:
            self._turns.append(session)
        self._wake.set()

    def wake(self) -> None:
        """Look again: an edge that was full has room."""
        self._wake.set()

    def closed(self, session: Session) -> None:
        """Free a session that was closed, now or when its forward is over."""
        if session in self._turns:
            self._turns.remove(session)
        if session is not self._running:
            self._sessions.free(session)

    async def run(self) -> None:
        """Serve for ever."""
        while True:
            session = self._next()
            if session is None:
                self._wake.clear()
                await self._wake.wait()
            else:
                await self._serve(session)

    def stop(self) -> None:
        self._thread.shutdown(wait=False, cancel_futures=True)

    def _next(self) -> Session | None:
        """The first session, in turn, whose outgoing edge can take the result of its first step."""
        for _ in range(len(self._turns)):
            session = self._turns.popleft()
            if session.outlet and session.outlet.has_room(self._result_bytes(session.queue[0][0])):
                return session
            self._turns.append(session)
        return None

    def _result_bytes(self, step: Step) -> int:
        return step.count * self.blocks.hidden_size * self.blocks.dtype.itemsize

    async def _serve(self, session: Session) -> None:
        step, payload = session.queue.popleft()
        self._running = session
        try:
            if session.inlet:
                session.inlet.taken(len(payload))
            result = await asyncio.get_running_loop().run_in_executor(
                self._thread, self._forward, session, step, payload
            )
            if session.outlet and not session.closed:
                session.outlet.send(result.message, result.payload)
        except LinkLost as error:
            self._on_failure(session, as_hop_failure(error, session.downstream))
        except CorollaError as error:
            self._on_failure(session, error)
        except Exception as error:  # noqa: BLE001 - what others sent meets torch and the family's own code here
            self._on_failure(session, HopFailed(self._me, "forward", f"the forward failed: {str(error)[:300]}"))
        finally:
            self._running = None
            self._requeue(session)

    def _requeue(self, session: Session) -> None:
        if session.closed:
            self._sessions.free(session)
        elif session.queue:
            self._turns.append(session)

    def _forward(self, session: Session, step: Step, payload: memoryview) -> Result:
        """On the torch thread: check, run, check, encode."""
        blocks = self.blocks
        hidden = decode_hidden(Encoded(step.tensors, payload), (step.count, blocks.hidden_size))
        check_finite(hidden, session.upstream)
        out = blocks.forward(hidden, session.cache, step.position)
        check_finite(out, self._me)
        if not session.last:
            specs, data = encode_hidden(out)
            return Result(msgspec.structs.replace(step, tensors=specs), data)
        rows = {"none": out[:0], "last": out[-1:], "all": out}[step.returns]
        return _output(step, rows)


def _output(step: Step, rows: torch.Tensor) -> Result:
    specs, data = encode_hidden(rows)
    message = Output(
        session=step.session,
        epoch=step.epoch,
        round=step.round,
        position=step.position + step.count - len(rows),
        count=len(rows),
        tensors=specs,
    )
    return Result(message, data)
