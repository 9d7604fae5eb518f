"""A small real grammar, so that sampling is tried without a grammar library."""

from __future__ import annotations

import threading
from collections.abc import Set
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True, slots=True)
class InTurn:
    """At each place of an answer one of its `places`, then one of the `ends`. `threads` are those that prepared."""

    places: tuple[Set[int], ...]
    ends: Set[int]
    vocabulary: int
    threads: set[threading.Thread] = field(default_factory=set)

    def matcher(self) -> InTurnMatcher:
        return InTurnMatcher(self)


class InTurnMatcher:
    def __init__(self, grammar: InTurn) -> None:
        self._grammar = grammar
        self._place = 0
        self._allowed: npt.NDArray[np.bool_] | None = None

    def prepare(self) -> None:
        self._grammar.threads.add(threading.current_thread())
        self._allowed = np.zeros(self._grammar.vocabulary, np.bool_)
        self._allowed[list(self._now)] = True

    def allowed(self) -> npt.NDArray[np.bool_]:
        assert self._allowed is not None, "nobody has prepared this"
        return self._allowed

    def accept(self, token: int) -> None:
        if token not in self._now:
            raise ValueError(f"{token} may not come at place {self._place}")
        self._place, self._allowed = self._place + 1, None

    @property
    def _now(self) -> Set[int]:
        return self._grammar.places[self._place] if self._place < len(self._grammar.places) else self._grammar.ends
