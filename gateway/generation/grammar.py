"""Constrained decoding: which tokens may come next, so that an answer keeps to a grammar."""

from __future__ import annotations

from typing import Protocol

import numpy as np
import numpy.typing as npt


class Matcher(Protocol):
    """One answer's place in a grammar. Used by one thread at a time, which need not be the same one."""

    def prepare(self) -> None:
        """Work out which tokens may come next, if that is not known yet. Takes up to some milliseconds."""
        ...

    def allowed(self) -> npt.NDArray[np.bool_]:
        """(vocabulary,): True for each token that may come next; never none."""
        ...

    def accept(self, token: int) -> None:
        """It has come."""
        ...


class Grammar(Protocol):
    """What an answer may be; checked, and shared by the choices of a request."""

    def matcher(self) -> Matcher:
        """At the beginning of an answer."""
        ...
