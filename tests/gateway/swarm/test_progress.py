"""How far a session is: what answers a round, what all hops have run for certain, and what a rollback leaves of it."""

from __future__ import annotations

import pytest

from gateway.swarm.progress import Progress
from shared.errors import ProtocolError
from shared.wire import Output, Report

SESSION = "0" * 32
NO_ROWS = memoryview(b"")
PROMPT = 6


def push(progress: Progress, position: int, *counts: int) -> None:
    """A round whose last row is asked for, in steps of so many tokens."""
    progress.begin_round(position)
    for number, count in enumerate(counts, 1):
        progress.pushed(count, "last" if number == len(counts) else "none")


def come(progress: Progress, position: int, *, count: int = 1, epoch: int = 1, round_: int | None = None) -> bool:
    """An output of the round that was pushed last, if no other is said."""
    said_in = progress.round if round_ is None else round_
    output = Output(session=SESSION, epoch=epoch, round=said_in, position=position, count=count)
    return progress.came(output, NO_ROWS)


def report(length: int, round_: int, epoch: int = 1) -> Report:
    about = {"session": SESSION, "number": 1, "shallowest": 0, "outbox_from": 0, "queued": 0, "running": False}
    pace = {"blocked": False, "heard_ms": 0, "forward_ms": 0, "forwards": 1}
    return Report(epoch=epoch, round=round_, length=length, **about, **pace)


@pytest.fixture
def progress() -> Progress:
    """A session in its first epoch whose prompt is answered."""
    progress = Progress()
    progress.begin_epoch()
    push(progress, 0, PROMPT)
    come(progress, PROMPT - 1)
    progress.take()
    return progress


def test_a_row_answers_when_it_is_of_the_last_position_of_this_round_and_epoch(progress: Progress) -> None:
    push(progress, PROMPT, 4)
    come(progress, PROMPT + 3, epoch=2)
    come(progress, PROMPT + 3, round_=progress.round - 1)
    come(progress, PROMPT + 2)
    come(progress, PROMPT + 4, count=0)
    assert not progress.is_out
    come(progress, PROMPT + 3)
    assert progress.is_out
    assert progress.take()[0].position == PROMPT + 3
    assert not progress.is_out


def ask_for_all(progress: Progress) -> None:
    """A round of twelve tokens in three steps."""
    progress.begin_round(PROMPT)
    for _ in range(3):
        progress.pushed(4, "all")


def test_all_rows_of_a_round_are_taken_in_order_and_each_once(progress: Progress) -> None:
    ask_for_all(progress)
    for position, count in ((PROMPT, 3), (PROMPT + 3, 1), (PROMPT + 4, 4)):
        assert come(progress, position, count=count)
    taken = []
    while progress.has_rows:
        taken.append(progress.take_rows()[0].position)
    assert taken == [PROMPT, PROMPT + 3, PROMPT + 4]
    assert progress.answered == PROMPT + 8


@pytest.mark.parametrize(("position", "count"), [(PROMPT + 1, 1), (PROMPT - 1, 2), (PROMPT, 13), (PROMPT + 12, 1)])
def test_rows_that_nobody_awaits_are_refused(progress: Progress, position: int, count: int) -> None:
    ask_for_all(progress)
    with pytest.raises(ProtocolError, match=rf"where those of \[{PROMPT}, {PROMPT + 12}\) are awaited"):
        come(progress, position, count=count)
    assert not progress.has_rows


def test_rows_that_were_not_taken_are_needed_again_in_a_new_epoch(progress: Progress) -> None:
    """The last hop may be another one then: what it has not made is not taken for its own."""
    ask_for_all(progress)
    for position in (PROMPT, PROMPT + 4):
        come(progress, position, count=4)
    progress.take_rows()
    assert (progress.answered, progress.is_certain) == (PROMPT + 4, False)
    progress.begin_epoch()
    assert (progress.has_rows, progress.answered) == (False, PROMPT + 4)
    assert come(progress, PROMPT + 4, count=8, epoch=2)
    assert progress.take_rows()[0].count == 8


def test_rows_that_are_rejected_are_needed_again(progress: Progress) -> None:
    ask_for_all(progress)
    for position in (PROMPT, PROMPT + 4, PROMPT + 8):
        come(progress, position, count=4)
    progress.take_rows()
    progress.take_rows()
    progress.reject_rows()
    assert (progress.has_rows, progress.answered) == (False, PROMPT + 4)


def test_a_fork_awaits_nothing_of_what_it_begins_with() -> None:
    fork = Progress(PROMPT)
    fork.begin_epoch()
    assert (fork.end, fork.answered, fork.is_out) == (PROMPT, PROMPT, False)


def test_a_round_ends_the_wait_for_the_one_before(progress: Progress) -> None:
    push(progress, PROMPT, 1)
    come(progress, PROMPT)
    progress.begin_round(PROMPT + 1)
    assert not progress.is_out
    assert (progress.end, progress.returns) == (PROMPT + 1, "none")


def test_only_what_comes_from_further_than_before_is_a_move(progress: Progress) -> None:
    push(progress, PROMPT, 4, 4)
    assert come(progress, PROMPT + 4, count=0)
    assert not come(progress, PROMPT + 4, count=0)
    assert not come(progress, PROMPT + 2, count=0)
    assert not come(progress, PROMPT + 7, epoch=2)
    assert not come(progress, PROMPT + 100)  # of what was never pushed
    assert not come(progress, PROMPT + 4, round_=progress.round + 1)
    assert come(progress, PROMPT + 7)


def test_what_is_answered_leaves_out_the_row_that_is_asked_for(progress: Progress) -> None:
    progress.begin_round(PROMPT)
    progress.pushed(4, "none")
    assert progress.answered == PROMPT + 4
    progress.pushed(4, "last")
    assert progress.answered == PROMPT + 7


def test_all_hops_have_run_what_has_come_out_and_in_a_new_epoch_nothing_is_certain(progress: Progress) -> None:
    push(progress, PROMPT, 1)
    assert progress.is_certain
    push(progress, PROMPT + 1, 3)  # of the token before, no output has come
    assert not progress.is_certain
    come(progress, PROMPT + 3)
    assert progress.is_certain
    progress.begin_epoch()
    assert not progress.is_certain


def test_what_was_rolled_back_is_not_certain(progress: Progress) -> None:
    push(progress, 2, 3)
    assert not progress.is_certain
    come(progress, 4)
    push(progress, 5, 1)
    assert progress.is_certain


def test_of_a_cache_written_before_a_rollback_what_lies_below_it_is_right(progress: Progress) -> None:
    before = progress.round
    push(progress, 4, 1)
    push(progress, 2, 5)
    assert progress.right(report(PROMPT, before)) == 2
    assert progress.right(report(5, before + 1)) == 2
    assert progress.right(report(7, progress.round)) == 7
    assert progress.right(report(1, before)) == 1


def test_rollbacks_are_forgotten_when_all_hops_have_seen_them(progress: Progress) -> None:
    before = progress.round
    push(progress, 2, 4)
    come(progress, 5)
    assert progress.right(report(PROMPT, before)) == PROMPT


def test_a_hop_of_a_later_epoch_has_seen_the_rollbacks_of_earlier_ones(progress: Progress) -> None:
    before = progress.round
    push(progress, 2, 5)
    progress.begin_epoch()
    assert progress.right(report(7, 0, epoch=2)) == 7
    assert progress.right(report(7, before, epoch=1)) == 2


def test_each_epoch_begins_a_round_and_drops_the_answer_of_the_one_before(progress: Progress) -> None:
    push(progress, PROMPT, 1)
    come(progress, PROMPT)
    rounds = progress.round
    assert progress.begin_epoch() == 2
    assert (progress.round, progress.is_out) == (rounds + 1, False)
    assert not come(progress, PROMPT, epoch=1)
    assert come(progress, PROMPT, epoch=2)


@pytest.mark.parametrize("steps", [(1,), (4, 1), (5,)], ids=["one token", "a last chunk of one", "several"])
def test_a_prompt_is_no_decode_step(steps: tuple[int, ...]) -> None:
    progress = Progress()
    progress.begin_epoch()
    push(progress, 0, *steps)
    assert not progress.decodes


def test_one_token_behind_what_all_hops_have_run_is_a_decode_step(progress: Progress) -> None:
    push(progress, PROMPT, 1)
    assert progress.decodes
    come(progress, PROMPT)
    push(progress, PROMPT + 1, 2)
    assert not progress.decodes


def test_the_first_step_after_a_recovery_is_no_decode_step(progress: Progress) -> None:
    push(progress, PROMPT, 1)
    progress.begin_epoch()  # the step goes in again, behind a replay
    assert not progress.decodes
    come(progress, PROMPT, epoch=2)
    push(progress, PROMPT + 1, 1)
    assert progress.decodes


def test_a_step_behind_tokens_that_are_still_replayed_is_no_decode_step(progress: Progress) -> None:
    progress.begin_epoch()  # while nothing was asked for
    push(progress, PROMPT, 1)
    assert not progress.decodes
