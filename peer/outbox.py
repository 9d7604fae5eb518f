"""What a hop has sent on, kept as it went over the wire: whoever takes the next hop's place gets it again.

In main memory, within a budget of its own that all sessions share.
"""

from __future__ import annotations

import msgspec

from shared.tensors import WIDEST_BYTES, Encoded
from shared.wire import PAYLOAD_LIMIT, TensorSpec

REPLAY_TOKENS = 128
"""In one frame of a replay at most: the next hop works on one while the next is on its way."""


class OutboxBudget:
    """Bytes that the outboxes of all sessions may take together: when they are full, the longest is dropped whole."""

    def __init__(self, total: int) -> None:
        self.total = total
        self.used = 0
        self._boxes: set[Outbox] = set()

    def box(self, start: int = 0) -> Outbox:
        """An outbox for one more session, of what it makes of positions from `start` on."""
        made = Outbox(self, start)
        self._boxes.add(made)
        return made

    def forget(self, box: Outbox) -> None:
        """The session has ended."""
        box.drop()
        self._boxes.discard(box)

    def make_room(self, size: int) -> None:
        """Drop outboxes, the longest first, until `size` more bytes fit or none is left that holds any."""
        while self.used + size > self.total and self.used:
            max(self._boxes, key=len).drop()


class Outbox:
    """Rows of hidden states of one session: those made of positions [start, end)."""

    def __init__(self, budget: OutboxBudget, start: int = 0) -> None:
        self.start = start
        self._budget = budget
        self._spec: TensorSpec | None = None
        self._row_bytes = 1
        self._rows = bytearray()

    def __len__(self) -> int:
        """Bytes held."""
        return len(self._rows)

    @property
    def end(self) -> int:
        return self.start + len(self._rows) // self._row_bytes

    def append(self, position: int, made: Encoded) -> None:
        """Keep `(tokens, hidden)` made of positions from `position` on; what was there of these is overwritten.

        Where that leaves a gap, or nothing fits any more, what came before is lost.
        """
        spec = made.specs[0]
        self.crop(position)
        if self._budget.total < len(made.data):
            self._restart(position + spec.shape[0])
            return
        self._budget.make_room(len(made.data))
        if position != self.end or (self._spec and self._spec.dtype != spec.dtype):
            self._restart(position)
        self._spec, self._row_bytes = spec, len(made.data) // spec.shape[0]
        self._rows += made.data
        self._budget.used += len(made.data)

    def crop(self, end: int) -> None:
        """Forget what was made of positions from `end` on."""
        if end < self.start:
            self._restart(end)
        elif end < self.end:
            keep = (end - self.start) * self._row_bytes
            self._budget.used -= len(self._rows) - keep
            del self._rows[keep:]

    def rows(self, start: int, end: int) -> Encoded:
        """What was made of [start, end), or of its beginning where that is more than a frame takes."""
        assert self.start <= start < end <= self.end
        assert self._spec
        width = self._spec.shape[1]
        end = min(end, start + REPLAY_TOKENS, start + max(1, PAYLOAD_LIMIT // (width * WIDEST_BYTES)))
        first, last = ((position - self.start) * self._row_bytes for position in (start, end))
        spec = msgspec.structs.replace(self._spec, shape=(end - start, width))
        return Encoded((spec,), memoryview(bytes(self._rows[first:last])))  # a view would forbid the outbox to grow

    def drop(self) -> None:
        """Forget everything; what is made from now on is kept again."""
        self._restart(self.end)

    def _restart(self, position: int) -> None:
        self._budget.used -= len(self._rows)
        self._rows, self.start = bytearray(), position
