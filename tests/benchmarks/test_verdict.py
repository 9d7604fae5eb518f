"""Verdicts: what counts as a pause, as needless, and as passed."""

from __future__ import annotations

from benchmarks.havoc import Event
from benchmarks.prompts import Prompt
from benchmarks.streams import Request, Stream
from benchmarks.verdict import broken, pauses, percentile

KILL = Event(0, "kill", ["0:2 a"], spare=True, at=10.0, over=14.0)


def stream(arrivals: list[float], end: str = "whole", ended: float = 0.0) -> Stream:
    made = Stream(1, Request(Prompt([], 9), 20), sent=0.0, arrivals=arrivals, ended=ended or arrivals[-1])
    made.end = "error" if end == "error" else "whole"
    return made


def test_a_long_gap_while_something_is_wrong_is_a_pause() -> None:
    found = pauses([stream([9.6, 9.7, 9.8, 9.9, 11.0, 11.1])], [KILL], began=9.0)
    assert [(pause.at_s, pause.seconds) for pause in found] == [(9.9 - 9.0, 11.0 - 9.9)]


def test_gaps_that_are_usual_or_without_a_fault_are_none() -> None:
    assert pauses([stream([9.6, 9.7, 9.8, 9.9, 10.1, 10.2])], [KILL], began=0.0) == []
    assert pauses([stream([1.6, 1.7, 1.8, 1.9, 4.0, 4.1])], [KILL], began=0.0) == []


def test_an_error_is_needless_while_a_spare_was_there() -> None:
    (found,) = broken([stream([9.8, 9.9], "error", ended=12.0)], [KILL], began=0.0)
    assert found.needless
    assert found.faults == ["kill 0:2 a at 10.0 s"]


def test_an_error_is_not_needless_when_all_copies_were_gone_since_its_last_token() -> None:
    gone = Event(1, "kill", ["0:2 a", "0:2 b"], spare=False, at=10.5, over=30.0)
    (found,) = broken([stream([9.8, 9.9], "error", ended=12.0)], [KILL, gone], began=0.0)
    assert not found.needless


def test_an_earlier_fault_without_a_spare_is_no_excuse() -> None:
    gone = Event(1, "kill", ["0:2 a", "0:2 b"], spare=False, at=1.0, over=5.0)
    (found,) = broken([stream([4.0, 9.9], "error", ended=12.0)], [gone, KILL], began=0.0)
    assert found.needless


def test_percentiles_are_values_that_were_measured() -> None:
    assert [percentile([1.0, 2.0, 3.0, 9.0], share) for share in (0.5, 0.99, 1.0)] == [3.0, 9.0, 9.0]
    assert percentile([], 0.5) is None
