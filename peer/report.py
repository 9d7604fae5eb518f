"""What a hop tells its gateway of one session: from this the gateway finds who is at fault, and how to go on."""

from __future__ import annotations

import time

from peer.scheduler import Scheduler
from peer.sessions import Session
from shared.wire import Report

NEVER_MS = 2**31 - 1


def report(session: Session, number: int, scheduler: Scheduler) -> Report:
    """The answer to the Status of this `number`."""
    return Report(
        session=session.id,
        number=number,
        epoch=session.cursor.epoch,
        round=session.done_round,
        length=session.done,
        shallowest=session.cache.shallowest,
        outbox_from=min(session.outbox.start, session.done),
        queued=len(session.queue),
        running=scheduler.runs(session),
        blocked=session.outlet is None
        or session.replay_from is not None
        or session.outlet.room < scheduler.token_bytes,
        heard_ms=round(1000 * (time.monotonic() - session.inlet.link.heard_at)) if session.inlet else NEVER_MS,
        forward_ms=round(1000 * scheduler.forward_s),
        forwards=scheduler.forwards,
    )
