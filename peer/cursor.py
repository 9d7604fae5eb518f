"""Where a session stands: which frames are late, which crop the cache, which leave a gap. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from shared.errors import PositionGap


@dataclass(slots=True)
class Cursor:
    """The end of a session's cache once all admitted frames have run, and the fence against late frames."""

    epoch: int
    round: int = 0
    length: int = 0
    dropped: int = 0

    def is_over(self, epoch: int) -> bool:
        """True for an epoch before this one; a frame of it is counted as dropped."""
        over = epoch < self.epoch
        self.dropped += over
        return over

    def admit(self, epoch: int, round_: int, position: int, count: int) -> bool:
        """Take a frame into account; False when it must be dropped. Raises PositionGap.

        Only a higher round may start below the length, and then crops; within a round positions go on without
        a step back. A pair (epoch, round) below the highest seen, or an epoch not yet told, is dropped.
        """
        late = epoch != self.epoch or round_ < self.round or (round_ == self.round and position < self.length)
        if late:
            self.dropped += 1
            return False
        if position > self.length:
            raise PositionGap(f"a step starts at position {position}, the cache ends at {self.length}")
        self.round = round_
        self.length = position + count
        return True
