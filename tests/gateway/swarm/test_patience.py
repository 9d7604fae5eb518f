from __future__ import annotations

import pytest

from gateway.swarm.patience import LEAST_S, STEPS, Patience


def decoded(patience: Patience, step_s: float, steps: int, start: float = 100.0) -> float:
    """Run decode steps of so many seconds; the time when the last one is over."""
    for number in range(steps):
        patience.pushed(start + number * step_s, decodes=True)
        patience.answered(start + (number + 1) * step_s)
        patience.moved(start + (number + 1) * step_s)
    return start + steps * step_s


def test_a_chain_of_unknown_pace_is_given_the_least_time() -> None:
    patience = Patience()
    patience.pushed(100.0, decodes=False)
    assert patience.ends_at == 100.0 + LEAST_S


def test_a_fast_chain_is_given_no_less() -> None:
    patience = Patience()
    end = decoded(patience, step_s=0.01, steps=20)
    assert patience.ends_at == pytest.approx(end + LEAST_S)


def test_a_slow_chain_is_given_several_of_its_own_steps() -> None:
    patience = Patience()
    end = decoded(patience, step_s=2.0, steps=20)
    assert patience.ends_at == pytest.approx(end + STEPS * 2.0)


def test_one_step_that_is_long_counts_for_a_part() -> None:
    patience = Patience()
    end = decoded(patience, step_s=1.0, steps=20)
    decoded(patience, step_s=11.0, steps=1, start=end)
    assert STEPS * 1.0 < patience.ends_at - (end + 11.0) < STEPS * 4.0


def test_a_prompt_tells_nothing_of_the_pace() -> None:
    patience = Patience()
    patience.pushed(100.0, decodes=False)
    patience.answered(500.0)
    patience.moved(500.0)
    assert patience.ends_at == 500.0 + LEAST_S


def test_time_does_not_go_back() -> None:
    patience = Patience()
    patience.moved(100.0)
    patience.moved(50.0)
    assert patience.ends_at == 100.0 + LEAST_S
