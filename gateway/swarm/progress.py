"""How far a session is: what was pushed, what of it has come out, and what of a hop's cache is still right. Pure."""

from __future__ import annotations

from collections import deque

from shared.errors import ProtocolError
from shared.wire import Output, Report, Returns

Answer = tuple[Output, memoryview]


class Progress:
    """Rounds and positions of one session. `end` is the end of what was pushed."""

    def __init__(self, end: int = 0) -> None:
        """A session that begins with the tokens below `end` in its caches."""
        self.end = end
        self.returns: Returns = "none"
        """Of what was pushed last in this round: nothing is asked for, or its last row, or all rows."""
        self.round = 0
        self._epoch = 0
        self._answer: Answer | None = None
        self._rows: deque[Answer] = deque()  # of a round that asks for all, those that have come and wait to be taken
        self._rows_end = end  # the position after them
        self._taken = end  # where the rows that were taken last begin
        self._through = (0, 0)  # round and position that the last hop has reached in this epoch
        self._certain = 0
        self._began = 0  # where the round did, if that was in this epoch
        self._rollbacks: list[tuple[int, int, int]] = []  # epoch, round, and the position where that began anew

    @property
    def answered(self) -> int:
        """Of positions below, no output is needed any more, even if a new epoch begins."""
        return {"none": self.end, "last": self.end - 1, "all": self._untaken}[self.returns]

    @property
    def is_certain(self) -> bool:
        """True when all hops of this epoch have run all that is answered, and little more: its output has come."""
        return self._certain >= self.answered and self.returns != "all"

    @property
    def is_out(self) -> bool:
        """True when the row of the last position is there."""
        return self._answer is not None and _end(self._answer[0]) == self.end

    @property
    def decodes(self) -> bool:
        """True when what was pushed last is one token alone, behind those that all hops have run."""
        return self.end - self._began == 1 and 0 < self._began <= self._certain

    def take(self) -> Answer:
        """That row, once."""
        assert self._answer
        answer, self._answer = self._answer, None
        return answer

    @property
    def has_rows(self) -> bool:
        """True when further rows of a round that asks for all are there."""
        return bool(self._rows)

    def take_rows(self) -> Answer:
        """The next rows, in order, once."""
        answer = self._rows.popleft()
        self._taken = answer[0].position
        return answer

    def reject_rows(self) -> None:
        """The rows that were taken last are needed again, and so are those after them."""
        if self.returns == "all":
            self._rows.clear()
            self._rows_end = self._taken

    def begin_epoch(self) -> int:
        """The number of a new epoch: what came of earlier ones counts for nothing, unless it was taken.

        So it is never taken for what another last hop has made.
        """
        self._rows_end = self._untaken
        self._rows.clear()
        self._epoch += 1
        self.round += 1
        self._answer, self._through, self._certain, self._began = None, (0, 0), 0, 0
        return self._epoch

    def begin_round(self, position: int) -> None:
        """What is pushed from now on starts at `position`."""
        self.round += 1
        if position < self.end:
            self._rollbacks.append((self._epoch, self.round, position))
            self._certain = min(self._certain, position)
        self.end, self.returns, self._answer = position, "none", None
        self._rows.clear()
        self._began = self._rows_end = self._taken = position

    def pushed(self, count: int, returns: Returns) -> None:
        """So many positions more. A round asks for all its rows, or for none but the last."""
        self.end += count
        self.returns = returns

    def came(self, output: Output, payload: memoryview) -> bool:
        """True when the last hop has come further. Of a round one answer is kept at most, or each row once.

        Raises ProtocolError for rows that nobody has asked for.
        """
        if output.epoch != self._epoch:
            return False
        if output.round == self.round and output.count and self.returns == "all":
            self._keep_rows(output, payload)
        elif output.round == self.round and output.count:
            self._answer = output, payload
            if self.is_out:
                self._rollbacks.clear()
                self._certain = self.end
        through = (output.round, _end(output))
        moved = self._through < through <= (self.round, self.end)
        self._through = through if moved else self._through
        return moved

    @property
    def _untaken(self) -> int:
        """Where the rows begin that have not come, or wait to be taken."""
        return self._rows[0][0].position if self._rows else self._rows_end

    def _keep_rows(self, output: Output, payload: memoryview) -> None:
        if output.position != self._rows_end or _end(output) > self.end:
            wanted = f"where those of [{self._rows_end}, {self.end}) are awaited"
            raise ProtocolError(f"rows of positions [{output.position}, {_end(output)}) come {wanted}")
        self._rows.append((output, payload))
        self._rows_end = _end(output)
        self._rollbacks.clear()

    def right(self, report: Report) -> int:
        """How much of a hop's cache is of the tokens that the session has now."""
        ran = (report.epoch, report.round)
        return min(report.length, *(begun for *when, begun in self._rollbacks if tuple(when) > ran), report.length)


def _end(output: Output) -> int:
    """The position after those that an output answers for."""
    return output.position + output.count
