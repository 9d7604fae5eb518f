"""What a run under faults has shown: wrong tokens, hangs, streams that ended though a spare was there, pauses. Pure."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from benchmarks.havoc import Event
from benchmarks.report import number, row
from benchmarks.streams import Stream

PAUSE_RATIO = 3.0
"""A gap between two pieces of a stream is a pause when it is so many times the stream's median one."""

GAPS = 4  # fewer have no median worth the name
LONGEST = 3  # pauses that are named


@dataclass(frozen=True, slots=True)
class Broken:
    """A stream that did not end as it should: how, what it was told, and what had been done to the swarm before."""

    stream: int
    end: str
    reason: str
    prompt_tokens: int
    tokens: int
    at_s: float
    silent_s: float
    faults: list[str]
    needless: bool
    """A spare was there all the time since its last token."""


@dataclass(frozen=True, slots=True)
class Wrong:
    """A stream with tokens that the reference would not have chosen, or not as many as asked for."""

    stream: int
    tokens: int
    worst_gap: float
    prompt_tokens: int
    temperature: float
    faults: list[str]


@dataclass(frozen=True, slots=True)
class Pause:
    """A gap between two pieces of a stream while something was wrong with the swarm; `at_s` is its beginning."""

    stream: int
    at_s: float
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """All that one run has shown. Times are seconds from its beginning."""

    seed: int
    settings: Mapping[str, Any]
    machine: Mapping[str, Any]
    seconds: float
    faults: Mapping[str, int]
    without_spare: int
    streams: int
    tokens: int
    checked: int
    wrong: list[Wrong]
    broken: list[Broken]
    pauses: list[Pause]
    failover: Mapping[str, float]
    events: list[dict[str, Any]]
    trouble: str | None
    """Why the run ended before its time."""

    @property
    def wrong_tokens(self) -> int:
        return sum(each.tokens for each in self.wrong)

    @property
    def hangs(self) -> list[Broken]:
        return [each for each in self.broken if each.end == "hung"]

    @property
    def needless(self) -> list[Broken]:
        return [each for each in self.broken if each.end == "error" and each.needless]

    @property
    def lost(self) -> list[str]:
        """Peers that did not come back after a fault."""
        return [event["trouble"] for event in self.events if event["trouble"]]

    @property
    def passed(self) -> bool:
        return not (self.wrong or self.hangs or self.needless or self.lost or self.trouble)

    def as_json(self) -> dict[str, Any]:
        return {**asdict(self), "wrong_tokens": self.wrong_tokens, "passed": self.passed}


def broken(streams: Sequence[Stream], events: Sequence[Event], began: float) -> list[Broken]:
    return [_broken(each, events, began) for each in streams if each.end != "whole"]


def pauses(streams: Sequence[Stream], events: Sequence[Event], began: float) -> list[Pause]:
    """Gaps much longer than usual during which something was wrong with the swarm, longest last."""
    found: list[Pause] = []
    for stream in streams:
        gaps = stream.gaps
        if len(gaps) < GAPS:
            continue
        usual_s = statistics.median(end - start for start, end in gaps)
        found += [
            Pause(stream.number, start - began, end - start)
            for start, end in gaps
            if end - start > PAUSE_RATIO * usual_s and any(_meet(event, start, end) for event in events)
        ]
    return sorted(found, key=lambda pause: pause.seconds)


def faults_during(stream: Stream, events: Sequence[Event], began: float) -> list[str]:
    """What was wrong since the stream was asked for, with the times."""
    meanwhile = [event for event in events if _meet(event, stream.sent, stream.ended)]
    return [f"{event.kind} {'+'.join(event.places)} at {event.at - began:.1f} s" for event in meanwhile]


def by_kind(events: Sequence[Event]) -> dict[str, int]:
    return dict(Counter(event.kind for event in events).most_common())


def percentile(values: Sequence[float], share: float) -> float | None:
    """The least of sorted `values` that so large a share of them does not exceed."""
    return values[min(len(values) - 1, int(share * len(values)))] if values else None


def table(found: Found) -> Iterator[str]:
    """Lines to print."""
    yield "\n" + row("faults", "times")
    for kind, times in found.faults.items():
        yield row(kind, str(times))
    yield row("in all", str(sum(found.faults.values())))
    yield row("of which without a spare", str(found.without_spare))
    yield "\n" + row("streams", "")
    yield row("streams", str(found.streams))
    yield row("tokens", f"{found.tokens:,}")
    yield row("checked", f"{found.checked:,}")
    yield row("wrong tokens", str(found.wrong_tokens))
    yield row("hangs", str(len(found.hangs)))
    yield row("needless errors", str(len(found.needless)))
    yield row("other errors", str(len(found.broken) - len(found.hangs) - len(found.needless)))
    yield row("peers that stayed away", str(len(found.lost)))
    yield "\n" + row("pauses", "times", "p50 s", "p99 s", "max s")
    pauses_s = [pause.seconds for pause in found.pauses]
    marks = (percentile(pauses_s, share) for share in (0.5, 0.99, 1.0))
    yield row("of streams", str(len(pauses_s)), *(number(mark, 2) for mark in marks))
    failover = (found.failover.get(name) for name in ("p50", "p99"))
    yield row("failovers, by the gateway", number(found.failover.get("times"), 0), *(number(at, 2) for at in failover))
    yield from _complaints(found)
    yield f"\nseed {found.seed}, {found.seconds:.0f} s: {'passed' if found.passed else 'FAILED'}"


def _complaints(found: Found) -> Iterator[str]:
    for pause in found.pauses[-LONGEST:]:
        yield f"a pause of {pause.seconds:.2f} s: stream {pause.stream} at {pause.at_s:.1f} s"
    for each in found.wrong:
        yield f"stream {each.stream}: {each.tokens} wrong tokens, worst by {each.worst_gap:.3g}; {each.faults}"
    for each in found.broken:
        known = "" if each.needless else " (without a spare)"
        yield f"stream {each.stream} at {each.at_s:.1f} s{known}: {each.end}, {each.reason}; {each.faults}"
    yield from found.lost
    if found.trouble:
        yield f"ended before its time: {found.trouble}"


def _broken(stream: Stream, events: Sequence[Event], began: float) -> Broken:
    since = [event for event in events if _meet(event, stream.last_sign, stream.ended)]
    return Broken(
        stream.number,
        stream.end,
        stream.reason,
        stream.request.prompt.tokens,
        len(stream.ids),
        stream.ended - began,
        stream.ended - stream.last_sign,
        faults_during(stream, events, began),
        needless=all(event.spare for event in since),
    )


def _meet(event: Event, start: float, end: float) -> bool:
    """True when a fault was there between two times."""
    return event.at <= end and event.over >= start
