"""Whose turn it is: sessions that use the same blocks are a group, and groups take turns. Pure."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from peer.batch import Share
from peer.sessions import Session
from shared.types import BlockRange

Plan = Callable[[Sequence[Session]], list[Share]]


class Turns:
    """Sessions with waiting steps, in the order in which they were last served.

    With `one_at_a_time`, for families whose sessions cannot share a forward, each turn is one session's.
    """

    def __init__(self, *, one_at_a_time: bool) -> None:
        self._one_at_a_time = one_at_a_time
        self._groups: dict[BlockRange, dict[Session, None]] = {}

    def add(self, session: Session) -> None:
        """The session waits, behind those of its group that wait already."""
        self._groups.setdefault(session.blocks, {}).setdefault(session, None)

    def remove(self, session: Session) -> None:
        group = self._groups.get(session.blocks, {})
        group.pop(session, None)
        if not group:
            self._groups.pop(session.blocks, None)

    def next(self, plan: Plan) -> list[Share]:
        """The shares of the first group of which any can run; an empty list when none can."""
        planned = (self._shares(list(group), plan) for group in self._groups.values())
        return next((shares for shares in planned if shares), [])

    def serve(self, shares: Sequence[Share]) -> None:
        """These are run now: their group goes to the back, and they wait no more."""
        blocks = shares[0].session.blocks
        self._groups[blocks] = self._groups.pop(blocks)
        for share in shares:
            self.remove(share.session)

    def _shares(self, sessions: list[Session], plan: Plan) -> list[Share]:
        if not self._one_at_a_time:
            return plan(sessions)
        return next((shares for session in sessions if (shares := plan([session]))), [])
