"""Plans of faults: the same for the same seed, and never without a copy unless they say so."""

from __future__ import annotations

from collections import Counter
from itertools import islice

from hypothesis import given
from hypothesis import strategies as st

from benchmarks.faults import NATURES, Fault, plan, victims
from shared.types import BlockRange

RANGES = [BlockRange(0, 2), BlockRange(2, 4), BlockRange(4, 6)]
PLACES = [*RANGES, *RANGES, *RANGES]


def planned(seed: int, count: int = 200, no_spare: float = 0.0) -> list[Fault]:
    return list(islice(plan(seed, len(PLACES), 4.5, tuple(NATURES), no_spare), count))


def test_a_seed_repeats_its_plan() -> None:
    assert planned(7) == planned(7)
    assert planned(7) != planned(8)


def test_ten_minutes_have_a_hundred_faults_of_which_a_third_are_kills() -> None:
    faults = planned(1, 133)
    assert sum(fault.after_s for fault in faults) < 660
    kinds = Counter(fault.kind for fault in faults)
    assert set(kinds) == set(NATURES)
    assert kinds["kill"] > 40


def test_kinds_that_are_not_asked_for_do_not_come() -> None:
    assert {fault.kind for fault in islice(plan(3, 9, 4.5, ("freeze", "kill")), 50)} == {"freeze", "kill"}


@given(seed=st.integers(0, 1000), sound=st.sets(st.integers(0, 8)))
def test_what_a_fault_hits_has_a_sound_copy_beside_it(seed: int, sound: set[int]) -> None:
    for fault in planned(seed, 5):
        for hit in victims(fault, PLACES, sound):
            assert hit in sound
            assert any(PLACES[other] == PLACES[hit] for other in sound - {hit})


def test_a_fault_waits_while_no_range_has_two_sound_copies() -> None:
    (fault,) = planned(1, 1)
    assert victims(fault, PLACES, {0, 4, 8}) == []
    assert victims(fault, PLACES, {0, 4, 8, 5}) in ([5], [8])


def test_a_fault_without_a_spare_hits_all_copies_and_only_when_all_else_is_sound() -> None:
    fault = next(fault for fault in planned(1, no_spare=0.5) if not fault.spare)
    hit = victims(fault, PLACES, set(range(9)))
    assert hit == [place for place in range(9) if PLACES[place] == PLACES[fault.order[0]]]
    assert victims(fault, PLACES, set(range(8))) == []
