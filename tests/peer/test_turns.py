from __future__ import annotations

from collections.abc import Sequence

from peer.batch import Share, plan
from peer.sessions import Session
from peer.turns import Turns
from tests.peer.queues import WIDTH, fill_window, session


def waiting(*sessions: Session, one_at_a_time: bool = False) -> Turns:
    turns = Turns(one_at_a_time=one_at_a_time)
    for each in sessions:
        turns.add(each)
    return turns


def served(turns: Turns, prefill: int = 10) -> list[str]:
    """Whom the next forward serves; they wait again at once."""

    def planned(sessions: Sequence[Session]) -> list[Share]:
        return plan(sessions, prefill, WIDTH)

    if shares := turns.next(planned):
        turns.serve(shares)
    for share in shares:
        for part in share.slices:
            part.waiting.done = part.end % part.waiting.step.count  # a step that is through comes again
        turns.add(share.session)
    return [share.session.id for share in shares]


def test_sessions_over_other_blocks_are_served_in_turn() -> None:
    turns = waiting(session("a", 1), session("b", 1), session("c", 1, blocks="1:2"))
    assert [served(turns) for _ in range(3)] == [["a", "b"], ["c"], ["a", "b"]]


def test_every_prompt_advances() -> None:
    turns = waiting(session("a", 1000), session("b", 1000), session("c", 1000), session("decodes", 1))
    prompts = [next(name for name in served(turns) if name != "decodes") for _ in range(6)]
    assert prompts == ["a", "b", "c", "a", "b", "c"]


def test_where_sessions_cannot_share_a_forward_each_gets_its_own() -> None:
    turns = waiting(session("a", 1), session("b", 1000), session("c", 1), one_at_a_time=True)
    assert [served(turns) for _ in range(4)] == [["a"], ["b"], ["c"], ["a"]]


def test_a_group_that_cannot_run_does_not_hold_up_another() -> None:
    full = session("full", 1)
    fill_window(full, 0)
    turns = waiting(full, session("free", 1, blocks="1:2"))
    assert [served(turns) for _ in range(3)] == [["free"]] * 3


def test_nobody_is_served_who_has_gone() -> None:
    gone = session("gone", 1)
    turns = waiting(gone)
    turns.remove(gone)
    turns.remove(gone)
    assert served(turns) == []
