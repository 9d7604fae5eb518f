"""What neighbours may send and nodes may announce, and who is not heard for a while. Knows nothing of libp2p."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable

from shared.announcement import check_signature
from shared.errors import ProtocolError
from shared.libp2p_node.allowance import Allowance
from shared.refusals import Kind, Refusals
from shared.table import CAPACITY
from shared.types import PeerId

logger = logging.getLogger(__name__)

MESSAGES_PER_S = 50
MESSAGES_BURST = 500
"""A neighbour that connects sends what it has heard lately in one go."""
ANNOUNCEMENTS_PER_S = 1.0
ANNOUNCEMENTS_BURST = 60
"""An honest node announces itself every two seconds at most, but for coming, going and the like."""


class Conduct:
    """The judgement over those whose announcements come here; times are `clock`'s, in seconds."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._refusals = Refusals(clock)
        self._messages = Allowance(MESSAGES_PER_S, MESSAGES_BURST, clock)
        self._announcements = Allowance(ANNOUNCEMENTS_PER_S, ANNOUNCEMENTS_BURST, clock, CAPACITY)
        self._told: Counter[Kind] = Counter()

    def admits(self, source: PeerId) -> bool:
        """False for a message of a neighbour that is shunned, or that sends too many.

        What is too much is dropped, and no more: a neighbour passes on what many others say, each within the rules.
        """
        if source in self._refusals.peers:
            return False
        granted = self._messages.take(source)
        if not granted:
            self._refusals.count("flood", f"{source} sends more than {MESSAGES_PER_S} messages a second")
        return granted

    def hears(self, announcer: PeerId) -> bool:
        """False for news of a node, signed by itself, that is shunned, or comes too often and therefore is."""
        if announcer in self._refusals.peers:
            return False
        granted = self._announcements.take(announcer)
        if not granted:
            limit = 60 * ANNOUNCEMENTS_PER_S
            self._refusals.by_peer(announcer, "flood", f"it announces itself more than {limit:.0f} times a minute")
        return granted

    def refused(self, source: PeerId, record: bytes, error: ProtocolError) -> None:
        """A neighbour passed on what is no announcement. It is at fault where it could not but notice.

        A record that is signed but cannot be read may be a later version's, and clocks may differ.
        """
        logger.debug("an announcement from %s is refused: %s", source, error)
        try:
            check_signature(record)
        except ProtocolError:
            self._refusals.by_peer(source, "announcement", f"it passes on what nobody has signed: {error}")
        else:
            self._refusals.count("announcement", f"{source} passes on: {error}")

    def news(self) -> dict[str, int]:
        """What was refused since this was asked last, by kind."""
        news = self._refusals.counted - self._told
        self._told = self._refusals.counted.copy()
        return {str(kind): count for kind, count in news.items()}
