"""Waiting a moment for more sessions before a forward, where that saves more than it costs.

A forward over a few sessions takes little longer than over one. A peer that has its cores for itself starts at once
all the same: while it computes, others queue, and a peer further down the chain is not kept waiting. But where several
peers share the cores, starting at once only takes a core from the others, and each computes many small forwards where
few larger ones would do: on two cores, three peers and a gateway, 8 streams got 56 tokens/s so, and 90 by waiting.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from peer.batch import Share
from peer.sessions import Session
from shared.types import BlockRange

ENOUGH = 8
"""So many sessions share a forward so well that waiting for more would cost more than it saves."""

_BURST = 0.1

RECENT_S = 1.0
"""A session that decoded within so many seconds is expected to go on."""


class Gathering:
    """Says for how many sessions a forward should wait. `crowded` tells whether others want the cores too."""

    def __init__(self, crowded: Callable[[], bool], at_once: int) -> None:
        """`at_once` forwards can run on the machine's cores at one time."""
        self._crowded = crowded
        self._at_once = at_once
        self._decoded_at: dict[Session, float] = {}

    def ran(self, session: Session) -> None:
        """A decode step of this session has run."""
        self._decoded_at[session] = time.monotonic()

    def forget(self, session: Session) -> None:
        """The session has ended."""
        self._decoded_at.pop(session, None)

    def enough(self, shares: Sequence[Share]) -> bool:
        """True when a forward of these, which are of one group, should not wait for more."""
        if not self._crowded():
            return True
        if any(share.prefills for share in shares):
            return True  # a prompt fills a forward by itself
        sessions = {share.session for share in shares}
        expected = sessions | self._expected(shares[0].session.blocks)
        return len(sessions) >= min(ENOUGH, len(expected) / self._at_once)

    def patience(self, shares: Sequence[Share]) -> float:
        """How long this forward may wait, in decode steps.

        Sessions gather where they enter the chain. Were they held everywhere, few of them could wait at each hop for
        those that wait at the others. Further on they come together, but one after the other.
        """
        return 1.0 if all(share.session.upstream == share.session.gateway for share in shares) else _BURST

    def _expected(self, blocks: BlockRange) -> set[Session]:
        since = time.monotonic() - RECENT_S
        return {each for each, at in self._decoded_at.items() if at > since and each.blocks == blocks}
