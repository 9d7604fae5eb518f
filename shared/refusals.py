"""What a node refuses: counted by kind, and held against whoever sent it, if that is proven."""

from __future__ import annotations

import ipaddress
import logging
import time
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Literal, get_args

from shared.errors import (
    BadIdentity,
    CorollaError,
    DeadlinePassed,
    FrameError,
    IsShunned,
    ProtocolError,
    Refused,
    Untimely,
    VersionMismatch,
)
from shared.shunned import Shunned
from shared.types import PeerId

logger = logging.getLogger(__name__)

Kind = Literal[
    "announcement",  # forged, malformed or out of date
    "crowd",  # one link more than there may be
    "failed",  # a hop did not do what it had promised
    "false_claim",  # a hop does not hold what it announces
    "flood",  # more announcements than a node may send
    "frame",  # malformed, too long, or with tensors that are not what they should be
    "identity",  # a certificate or a signature does not prove what it should
    "not_finite",  # hidden states that are no numbers
    "protocol",  # a message that has no place where it came
    "shunned",  # somebody who is shunned came again
    "silence",  # a handshake that was not gone on with
    "untimely",  # what may have been right a moment before
    "version",  # no version, or swarm, in common
]
KINDS: tuple[Kind, ...] = get_args(Kind)

_KINDS: tuple[tuple[type[CorollaError], Kind], ...] = (
    (IsShunned, "shunned"),
    (Untimely, "untimely"),
    (VersionMismatch, "version"),
    (BadIdentity, "identity"),
    (FrameError, "frame"),
    (ProtocolError, "protocol"),
    (DeadlinePassed, "silence"),
)
_GRAVE: frozenset[Kind] = frozenset(("frame", "protocol"))


class Refusals:
    """`peers` are shunned for what they have provably done, `addresses` for what came from there unproven.

    A peer ID that is not proven is only a claim: nobody is shunned because somebody else uses the name.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.peers = Shunned(clock)
        self.addresses = Shunned(clock)
        self.counted: Counter[Kind] = Counter()

    def count(self, kind: Kind, reason: str) -> None:
        """One more of this kind; the log hears of the first, the second, the fourth and so on."""
        self.counted[kind] += 1
        so_far = self.counted[kind]
        if so_far & (so_far - 1) == 0:
            logger.info("refused (%s, %d so far): %s", kind, so_far, reason)

    def add(self, counts: Mapping[str, int]) -> None:
        """What another process of this node has refused."""
        for kind in KINDS:
            self.counted[kind] += max(0, counts.get(kind, 0))

    def by_peer(self, peer: PeerId, kind: Kind, reason: str) -> None:
        """`peer` has provably done this: it is shunned."""
        self.count(kind, reason)
        self.peers.offends(peer, reason)

    def on_link(self, peer: PeerId, host: str, error: CorollaError) -> None:
        """A link that `host` dialled to this node is refused for this; `peer` is empty unless it is proven."""
        kind = self.by_kind(error)
        if peer:
            self._hold_against(peer, kind, str(error))
        elif kind in _GRAVE or kind == "identity":
            self.addresses.slips(source_of(host), str(error))

    def on_dialled(self, peer: PeerId, error: CorollaError) -> None:
        """A link that this node dialled is refused for this; `peer` is empty unless it is proven.

        What an address answers is not held against it: it may be another's, who has announced it for his own.
        """
        kind = self.by_kind(error)
        if peer:
            self._hold_against(peer, kind, str(error))

    def by_kind(self, error: CorollaError) -> Kind | None:
        """Count it, and say what it is: None for a link that broke, or one that the other side refuses."""
        kind = _kind(error)
        if kind:
            self.count(kind, str(error))
        return kind

    def _hold_against(self, peer: PeerId, kind: Kind | None, reason: str) -> None:
        if kind in _GRAVE:
            self.peers.offends(peer, reason)
        elif kind == "untimely":
            self.peers.slips(peer, reason)


def source_of(host: str) -> str:
    """What stands for all addresses that whoever uses `host` may have: of IPv6 a whole /64."""
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return host
    if isinstance(address, ipaddress.IPv6Address):
        mapped = address.ipv4_mapped
        return str(mapped or ipaddress.ip_network((int(address), 64), strict=False))
    return str(address)


def _kind(error: CorollaError) -> Kind | None:
    if isinstance(error, Refused):
        return None
    return next((kind for each, kind in _KINDS if isinstance(error, each)), None)
