"""The line before a full swarm: who passes, in what order, and who is sent away."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from gateway.swarm.admission import Admission
from shared.changes import Changes
from shared.errors import CacheFull, NoRoute, QueueFull, QueueTimeout
from shared.types import BlockRange, Fingerprint

MODEL, OTHER = Fingerprint("m"), Fingerprint("o")


class Room:
    """So many sessions fit; `passed` has the names of those that got in, in their order."""

    def __init__(self, length: int = 64, limit_s: float = 60.0) -> None:
        self.changes = Changes()
        self.waits: list[float] = []
        self.admission = Admission(self.changes, length, limit_s, self.waits.append)
        self.free = 0
        self.passed: list[str] = []
        self.tasks: dict[str, asyncio.Task[str]] = {}

    async def come(self, *names: str, resuming: bool = False, model: Fingerprint = MODEL) -> None:
        """Requests that come one after another; each has passed, failed, or stands in line when the next one comes."""
        for name in names:
            place = self.admission.arrive(model, resuming)
            self.tasks[name] = asyncio.create_task(self.admission.passes(place, lambda name=name: self.take(name)))
            await settled()

    def take(self, name: str) -> str:
        if not self.free:
            raise CacheFull("full")
        self.free -= 1
        self.passed.append(name)
        return name

    async def give(self, sessions: int) -> None:
        """Sessions end, and whoever listens is told."""
        self.free += sessions
        self.changes.notify()
        await settled()


async def settled() -> None:
    """Let everybody run who can run without time passing."""
    for _ in range(20):
        await asyncio.sleep(0)


@pytest.fixture
async def room() -> AsyncIterator[Room]:
    room = Room()
    yield room
    for task in room.tasks.values():
        task.cancel()


async def test_nobody_waits_while_there_is_room(room: Room) -> None:
    room.free = 2
    await room.come("a", "b", "c")
    assert (room.passed, room.admission.waiting) == (["a", "b"], 1)
    assert room.waits == [pytest.approx(0, abs=0.5)] * 2


async def test_who_came_first_passes_first(room: Room) -> None:
    await room.come("a", "b", "c", "d")
    await room.give(1)
    assert room.passed == ["a"]
    await room.give(2)
    assert room.passed == ["a", "b", "c"]
    assert room.admission.waiting == 1


async def test_nobody_overtakes_those_who_wait(room: Room) -> None:
    await room.come("a")
    room.free = 1  # there is room, of which nobody was told yet
    await room.come("b")
    assert room.passed == []
    await room.give(0)
    assert room.passed == ["a"]


async def test_a_stream_that_goes_on_comes_before_all_new_requests(room: Room) -> None:
    await room.come("a", "b")
    await room.come("moved", "moved too", resuming=True)
    await room.give(3)
    assert room.passed == ["moved", "moved too", "a"]


async def test_a_stream_that_goes_on_takes_room_at_once_though_others_wait(room: Room) -> None:
    await room.come("a")
    room.free = 1
    await room.come("moved", resuming=True)
    assert room.passed == ["moved"]


async def test_while_a_broken_chain_needs_room_new_requests_leave_it_what_comes(room: Room) -> None:
    await room.come("a")
    with room.admission.ahead(MODEL):
        await room.give(2)
        await room.come("b")
        await room.come("other", model=OTHER)
        assert room.passed == ["other"]
        room.take("broken")
    await room.give(2)
    assert room.passed == ["other", "broken", "a", "b"]


async def test_those_who_wait_behind_a_broken_chain_go_on_at_once_when_it_is_whole(room: Room) -> None:
    with room.admission.ahead(MODEL):
        await room.come("a")
        room.free = 1  # nobody is told
    await settled()
    assert (room.passed, room.admission.waiting) == (["a"], 0)


async def test_a_stream_that_goes_on_waits_behind_a_broken_chain_that_came_first(room: Room) -> None:
    with room.admission.ahead(MODEL):
        await room.come("moved", resuming=True)
        await room.give(1)
        assert room.passed == []
    await settled()
    assert room.passed == ["moved"]


async def test_models_have_lines_of_their_own(room: Room) -> None:
    await room.come("a")
    room.free = 1
    await room.come("other", model=OTHER)
    assert room.passed == ["other"]


async def test_a_full_line_refuses_new_requests_but_no_stream_that_goes_on() -> None:
    room = Room(length=2)
    await room.come("a", "b", "c")
    await room.come("moved", resuming=True)
    with pytest.raises(QueueFull, match="2 requests wait"):
        await room.tasks["c"]
    assert room.admission.waiting == 3
    await room.give(3)
    assert room.passed == ["moved", "a", "b"]


async def test_a_line_of_no_length_lets_pass_who_need_not_wait() -> None:
    room = Room(length=0)
    room.free = 1
    await room.come("a", "b")
    assert room.passed == ["a"]
    with pytest.raises(QueueFull):
        await room.tasks["b"]


async def test_who_waited_too_long_is_told_and_lets_the_next_one_through() -> None:
    room = Room(limit_s=0.05)
    await room.come("moved", resuming=True)
    await room.come("a", "b")
    for name in ("a", "b"):
        with pytest.raises(QueueTimeout, match=r"0\.05 s"):
            await asyncio.wait_for(room.tasks[name], 2)
    assert not room.tasks["moved"].done()  # a stream that goes on waits longer, beside the line
    await room.give(1)
    assert room.passed == ["moved"]


async def test_the_first_in_line_who_hangs_up_lets_the_next_one_through_at_once(room: Room) -> None:
    await room.come("a", "b")
    room.free = 1  # nobody is told
    room.tasks["a"].cancel()
    await settled()
    assert room.passed == ["b"]


async def test_one_who_hangs_up_in_the_middle_is_not_waited_for(room: Room) -> None:
    await room.come("a", "b", "c")
    room.tasks["b"].cancel()
    await settled()
    await room.give(2)
    assert room.passed == ["a", "c"]


async def test_what_becomes_free_right_after_the_refusal_is_not_missed(room: Room) -> None:
    refusals = [CacheFull("full, a moment ago")]

    def choose() -> str:
        if refusals:
            asyncio.get_running_loop().call_soon(room.changes.notify)  # before anybody else runs
            room.free = 1
            raise refusals.pop()
        return room.take("a")

    place = room.admission.arrive(MODEL, False)
    await asyncio.wait_for(room.admission.passes(place, choose), 0.5)  # sooner than it would try by itself
    assert room.passed == ["a"]


async def test_room_that_nobody_tells_of_is_found_after_a_while(room: Room) -> None:
    await room.come("a")
    room.free = 1
    assert await asyncio.wait_for(room.tasks["a"], 5) == "a"


async def test_who_is_sent_back_comes_before_those_who_came_later(room: Room) -> None:
    place = room.admission.arrive(MODEL, False)
    room.free = 1
    await room.admission.passes(place, lambda: room.take("a"))
    await room.come("b")
    again = asyncio.create_task(room.admission.passes(place, lambda: room.take("a again")))
    await settled()
    await room.give(2)
    assert room.passed == ["a", "a again", "b"]
    assert await again == "a again"
    assert len(room.waits) == 2  # one of them twice would count its wait twice


async def test_who_is_sent_back_again_and_again_is_told_in_the_end() -> None:
    room = Room(limit_s=0.0)
    place = room.admission.arrive(MODEL, False)
    room.free = 2
    await room.admission.passes(place, lambda: room.take("a"))
    await room.admission.passes(place, lambda: room.take("a"))  # another peer failed: no matter of cache
    place.sent_back = True
    with pytest.raises(QueueTimeout):
        await room.admission.passes(place, lambda: room.take("a"))


async def test_a_stream_that_waits_for_very_long_holds_up_nobody_any_more() -> None:
    room = Room(limit_s=0.05)
    room.free = 1

    def too_little() -> str:
        raise CacheFull("this one needs more")

    going_on = room.admission.arrive(MODEL, True)
    waiting = asyncio.create_task(room.admission.passes(going_on, too_little))
    await settled()
    new = room.admission.arrive(MODEL, False)
    new.arrived_at += 10  # it has more time than the stream has left
    assert await asyncio.wait_for(room.admission.passes(new, lambda: room.take("new")), 5)
    assert not waiting.done()
    with pytest.raises(QueueTimeout):
        await asyncio.wait_for(waiting, 5)


async def test_a_part_that_goes_missing_is_told_to_all_who_wait(room: Room) -> None:
    gone = False

    def choose() -> str:
        if gone:
            raise NoRoute("model", BlockRange(0, 2))
        raise CacheFull("full")

    waiting = [asyncio.create_task(room.admission.passes(room.admission.arrive(MODEL, False), choose)) for _ in "abc"]
    await settled()
    gone = True
    room.changes.notify()
    ends = await asyncio.wait_for(asyncio.gather(*waiting, return_exceptions=True), 2)
    assert [type(end) for end in ends] == [NoRoute] * 3
    assert room.admission.waiting == 0
