"""A pause of a chain, from the last that it did before something failed to the next output."""

from __future__ import annotations

import time
from dataclasses import dataclass

from shared.types import PeerId


@dataclass(slots=True)
class Repair:
    """`peer` failed in the way that `code` says, or was left for that reason (`is_move`)."""

    code: str
    peer: PeerId
    began_at: float
    """By the monotonic clock."""
    detection_s: float = 0.0
    """Until it was known that something had failed."""
    epochs: int = 0
    """How often the chain broke."""
    is_move: bool = False
    replayed_tokens: int = 0
    """Run again, by the hop that ran most of them."""

    @property
    def seconds(self) -> float:
        """Since it began."""
        return time.monotonic() - self.began_at
