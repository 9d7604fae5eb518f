from __future__ import annotations

from peer.batch import plan
from tests.peer.queues import WIDTH, fill_window, session, wait


def shares(*sessions, prefill: int = 100) -> dict[str, list[tuple[int, int]]]:
    """What each session puts in, as (first position, tokens)."""
    return {
        share.session.id: [(part.waiting.step.position + part.start, part.end - part.start) for part in share.slices]
        for share in plan(sessions, prefill, WIDTH)
    }


def test_every_decode_step_runs_whatever_the_prompts_take() -> None:
    many = [session(f"d{n}", 1) for n in range(200)]
    taken = shares(session("prompt", 500), *many, session("speculative", 4), prefill=10)
    assert taken["prompt"] == [(0, 10)]
    assert taken["speculative"] == [(0, 4)]
    assert len(taken) == 202


def test_steps_of_several_tokens_share_what_a_forward_has_for_them() -> None:
    taken = shares(*(session(f"s{n}", 16) for n in range(9)), session("plain", 1), prefill=40)
    assert list(taken) == ["s0", "s1", "s2", "plain"]  # 15 further tokens each: the third one uses them up


def test_small_slices_of_a_prompt_are_a_prompt() -> None:
    sliced = session("sliced")
    for _ in range(9):
        wait(sliced, 10, returns="none")
    assert shares(sliced, prefill=35) == {"sliced": [(0, 10), (10, 10), (20, 10), (30, 5)]}


def test_the_last_hop_sends_no_more_rows_than_there_is_room_for() -> None:
    one = session("one", last=True)
    for _ in range(5):
        wait(one, 20, returns="last")
    fill_window(one, 2 * WIDTH)
    assert shares(one) == {"one": [(0, 20), (20, 20)]}


def test_a_session_runs_one_decode_step_at_a_time() -> None:
    one = session("one", 1)
    wait(one, 1, round_=2)
    assert shares(one) == {"one": [(0, 1)]}


def test_prompts_share_what_a_forward_gives_them_in_turn() -> None:
    assert shares(session("a", 60), session("b", 60), session("c", 60)) == {"a": [(0, 60)], "b": [(0, 40)]}
    assert shares(session("a", 60), prefill=1) == {"a": [(0, 1)]}


def test_no_session_takes_more_of_a_prompt_at_once_than_its_cache_is_counted_for() -> None:
    assert shares(session("a", 400, 400), session("b", 900), prefill=5000) == {
        "a": [(0, 400), (400, 112)],
        "b": [(0, 512)],
    }


def test_a_prompt_goes_on_where_its_last_slice_ended_and_over_the_ends_of_steps() -> None:
    one = session("one", 30, 30, 30)
    one.queue[0].done = 20
    assert shares(one, prefill=50) == {"one": [(20, 10), (30, 30), (60, 10)]}


def test_a_step_of_a_new_round_waits_for_the_next_forward() -> None:
    one = session("one", 30)
    wait(one, 30, round_=2)
    assert shares(one) == {"one": [(0, 30)]}


def test_nothing_runs_whose_result_has_no_room() -> None:
    full, tight, last = session("full", 1), session("tight", 50), session("last", 50, last=True)
    fill_window(full, 0)
    fill_window(tight, 7 * WIDTH)
    fill_window(last, WIDTH)  # the last hop sends one row at most
    assert shares(full, tight, last) == {"tight": [(0, 7)], "last": [(0, 50)]}


def test_a_session_whose_edge_does_not_stand_yet_waits() -> None:
    one = session("one", 1)
    one.outlet = None
    assert shares(one) == {}
