"""Sending again what a session has made before, to a hop that takes another one's place."""

from __future__ import annotations

from peer.scheduler import Scheduler
from peer.sessions import Fail, Session
from shared.edges import as_hop_failure
from shared.errors import HopFailed, LinkLost
from shared.tensors import Encoded
from shared.types import PeerId
from shared.wire import Step


class Replay:
    """Steps from outboxes, as the edges have room for them; new steps of the session run when all have left."""

    def __init__(self, me: PeerId, scheduler: Scheduler, fail: Fail) -> None:
        self._me = me
        self._scheduler = scheduler
        self._fail = fail

    def go_on(self, session: Session) -> None:
        """The session's outgoing edge stands, or has room again."""
        if session.replay_from is not None and session.outlet and not session.closed:
            try:
                self._send(session)
            except HopFailed as error:
                self._fail(session, error)
            except LinkLost as error:
                self._fail(session, as_hop_failure(error, session.downstream))
        self._scheduler.wake()

    def _send(self, session: Session) -> None:
        assert session.outlet
        while session.replay_from is not None and session.replay_from < session.done:
            if session.outbox.start > session.replay_from:
                reason = f"what was made of positions from {session.replay_from} on has been dropped"
                raise HopFailed(self._me, "outbox_lost", reason)
            rows = session.outbox.rows(session.replay_from, session.done)
            if not session.outlet.has_room(len(rows.data)):
                return
            step = _step(session, session.replay_from, rows)
            session.outlet.send(step, rows.data)
            session.replay_from += step.count
        session.replay_from = None


def _step(session: Session, position: int, encoded: Encoded) -> Step:
    """Of round 0: the gateway's own rounds begin above it in each epoch."""
    return Step(
        session=session.id,
        epoch=session.cursor.epoch,
        round=0,
        position=position,
        count=encoded.specs[0].shape[0],
        returns="none",
        tensors=encoded.specs,
    )
