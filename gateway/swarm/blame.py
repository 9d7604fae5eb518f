"""Whose fault it is that a session failed, and how grave it is. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from shared.errors import HopFailed
from shared.refusals import Kind
from shared.types import PeerId

_KINDS: dict[str, Kind] = {
    "not_finite": "not_finite",
    "protocol": "protocol",
    "gap": "protocol",
    "wrong_model": "false_claim",
    "wrong_blocks": "false_claim",
    "deadline": "failed",
    "forward": "failed",
    "refused": "failed",
    "unsupported": "failed",
}
_INNOCENT = frozenset((
    "out_of_cache", "cache_overrun", "cannot_fork", "crop_too_deep", "outbox_lost", "leaving", "draining", "closed",
    "stale",
))  # fmt: skip
"""Codes that a peer gives in good faith; any that is in no list here may be nobody's fault."""


_SLIGHT = frozenset(("gap",))
"""Orders that are overtaken by newer ones may leave one without anybody's fault."""


@dataclass(frozen=True, slots=True)
class Blame:
    """What `peers` are blamed for; unless it is `grave`, it counts only when it happens again and again."""

    peers: frozenset[PeerId]
    kind: Kind
    grave: bool


def blame_for(error: HopFailed) -> Blame | None:
    """None where nobody is at fault.

    What one hop says of another stands against both: one of them is at fault, and will be in more quarrels than the
    other. That a hop could not be reached is seen from here too, and no hop's word for it is needed.
    """
    kind = _KINDS.get(error.code)
    told = error.teller is not None and error.teller != error.peer
    if error.code in _INNOCENT or (told and not kind):
        return None
    peers = frozenset((error.peer, error.teller or error.peer))
    slight = kind is None or error.code in _SLIGHT or (told and kind == "failed")
    return Blame(peers, kind or "failed", grave=not slight)
