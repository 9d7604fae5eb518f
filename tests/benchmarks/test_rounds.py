"""Rounds end in time."""

from __future__ import annotations

import math

from benchmarks.rounds import turns


def test_there_are_as_many_rounds_as_asked_for_while_there_is_time() -> None:
    assert list(turns(3, limit_s=math.inf)) == [0, 1, 2]


def test_without_time_there_is_one_round() -> None:
    assert list(turns(3, limit_s=0)) == [0]
