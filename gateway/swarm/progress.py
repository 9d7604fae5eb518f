"""How far a session is: what was pushed, what of it has come out, and what of a hop's cache is still right. Pure."""

from __future__ import annotations

from typing import Literal

from shared.wire import Output, Report

Answer = tuple[Output, memoryview]


class Progress:
    """Rounds and positions of one session. `end` is the end of what was pushed."""

    def __init__(self) -> None:
        self.end = 0
        self.wanted = False
        """True when the row of the last position that was pushed was asked for."""
        self.round = 0
        self._epoch = 0
        self._answer: Answer | None = None
        self._through = (0, 0)  # round and position that the last hop has reached in this epoch
        self._certain = 0
        self._began = 0  # where the round did, if that was in this epoch
        self._rollbacks: list[tuple[int, int, int]] = []  # epoch, round, and the position where that began anew

    @property
    def answered(self) -> int:
        """Of positions below, no output is needed any more."""
        return self.end - 1 if self.wanted else self.end

    @property
    def is_certain(self) -> bool:
        """True when all hops of this epoch have run all that is answered: its output has come since."""
        return self._certain >= self.answered

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

    def begin_epoch(self) -> int:
        """The number of a new epoch: what comes of earlier ones counts for nothing."""
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
        self.end, self.wanted, self._answer = position, False, None
        self._began = position

    def pushed(self, count: int, returns: Literal["none", "last"]) -> None:
        """So many positions more."""
        self.end += count
        self.wanted = returns == "last"

    def came(self, output: Output, payload: memoryview) -> bool:
        """True when the last hop has come further. Of a round one answer is kept at most, whatever it sends."""
        if output.epoch != self._epoch:
            return False
        if output.round == self.round and output.count:
            self._answer = output, payload
            if self.is_out:
                self._rollbacks.clear()
                self._certain = self.end
        through = (output.round, _end(output))
        moved = self._through < through <= (self.round, self.end)
        self._through = through if moved else self._through
        return moved

    def right(self, report: Report) -> int:
        """How much of a hop's cache is of the tokens that the session has now."""
        ran = (report.epoch, report.round)
        return min(report.length, *(begun for *when, begun in self._rollbacks if tuple(when) > ran), report.length)


def _end(output: Output) -> int:
    """The position after those that an output answers for."""
    return output.position + output.count
