from __future__ import annotations

import pytest

from shared.announcement import Announcement
from shared.errors import VersionMismatch
from shared.identity import Identity
from shared.table import MEMORY_S, Change, Joined, Left, Table, Updated
from tests.shared.announcements import announcement

ANN, BEN, CLEO, DORA = (Identity.from_seed(letter * 32) for letter in (b"a", b"b", b"c", b"d"))


def accept(table: Table, said: Announcement, now: float = 0.0, age_s: float = 0.0, source: str = "n") -> Change | None:
    return table.accept(b"%d" % said.sequence, said, now, age_s, source)


def peers(table: Table) -> set[str]:
    return {each.peer for each in table}


def test_a_peer_joins_is_updated_and_leaves() -> None:
    table = Table("test")
    first, second = announcement(ANN, sequence=1), announcement(ANN, sequence=2, tokens_per_s=3.0)
    assert accept(table, first) == Joined(first)
    assert accept(table, second) == Updated(second)
    assert table.get(ANN.peer) is second
    gone = announcement(ANN, sequence=3, state="gone")
    assert accept(table, gone) == Left(second, "said goodbye")
    assert not peers(table)
    assert table.get(ANN.peer) is None


@pytest.mark.parametrize("sequence", [1, 2])
def test_what_is_not_newer_changes_nothing(sequence: int) -> None:
    table = Table("test")
    accept(table, announcement(ANN, sequence=2))
    assert accept(table, announcement(ANN, sequence=sequence, tokens_per_s=99.0), now=1) is None
    assert table.get(ANN.peer) == announcement(ANN, sequence=2, issued_at=next(iter(table)).issued_at)


def test_a_record_lives_for_its_time_from_its_first_receipt() -> None:
    table = Table("test")
    accept(table, announcement(ANN, ttl_s=30.0), now=100)
    accept(table, announcement(ANN, ttl_s=30.0), now=120)  # heard once more: no longer life
    assert table.expire(129.9) == []
    assert [left.announcement.peer for left in table.expire(130)] == [ANN.peer]
    assert not peers(table)


def test_the_age_that_a_neighbour_tells_shortens_its_life() -> None:
    table = Table("test")
    assert accept(table, announcement(ANN, ttl_s=30.0), age_s=30) is None
    accept(table, announcement(BEN, ttl_s=30.0), age_s=20)
    accept(table, announcement(CLEO, ttl_s=30.0), age_s=-1000)  # nobody can make it live longer
    assert {left.announcement.peer for left in table.expire(10)} == {BEN.peer}
    assert {left.announcement.peer for left in table.expire(30)} == {CLEO.peer}


@pytest.mark.parametrize("end", ["goodbye", "expiry", "drop"])
def test_an_old_record_cannot_be_replayed_after_the_end(end: str) -> None:
    table = Table("test")
    accept(table, announcement(ANN, sequence=5))
    if end == "goodbye":
        accept(table, announcement(ANN, sequence=6, state="gone"))
    elif end == "expiry":
        table.expire(30)
    else:
        assert table.drop(ANN.peer, "its link was lost")
    table.expire(MEMORY_S - 1)
    assert accept(table, announcement(ANN, sequence=5), now=MEMORY_S - 1) is None
    assert isinstance(accept(table, announcement(ANN, sequence=7), now=MEMORY_S - 1), Joined)


def test_a_sequence_is_forgotten_when_no_record_of_its_time_could_be_accepted() -> None:
    table = Table("test")
    accept(table, announcement(ANN, sequence=5))
    table.expire(MEMORY_S + 1)
    assert table.sequence(ANN.peer) == -1


def test_the_sequence_of_a_live_peer_is_kept_however_old() -> None:
    table = Table("test")
    accept(table, announcement(ANN, sequence=5, ttl_s=600.0))
    accept(table, announcement(BEN, sequence=1), now=1)
    table.expire(599)
    assert table.sequence(ANN.peer) == 5


def test_a_goodbye_of_an_unknown_peer_is_remembered() -> None:
    table = Table("test")
    assert accept(table, announcement(ANN, sequence=6, state="gone")) is None
    assert accept(table, announcement(ANN, sequence=5)) is None
    assert not peers(table)


def test_another_swarm_is_refused() -> None:
    with pytest.raises(VersionMismatch):
        accept(Table("test"), announcement(ANN, swarm="other"))


def test_a_full_table_takes_no_newcomer_but_updates_and_goodbyes() -> None:
    table = Table("test", capacity=2)
    accept(table, announcement(ANN))
    accept(table, announcement(BEN))
    assert accept(table, announcement(CLEO)) is None
    assert table.sequence(CLEO.peer) == -1  # it may try again when there is room
    assert isinstance(accept(table, announcement(ANN, sequence=2)), Updated)
    assert isinstance(accept(table, announcement(BEN, sequence=2, state="gone")), Left)
    assert isinstance(accept(table, announcement(CLEO)), Joined)


def test_one_source_cannot_fill_the_table() -> None:
    table = Table("test", capacity=10, source_capacity=2)
    accept(table, announcement(ANN), source="eve")
    accept(table, announcement(BEN), source="eve")
    assert accept(table, announcement(CLEO), source="eve") is None
    assert accept(table, announcement(CLEO), source="frank")
    accept(table, announcement(ANN, sequence=2, state="gone"), source="frank")
    assert accept(table, announcement(DORA), source="eve")  # what eve told of Ann counts no more


def test_records_are_passed_on_with_their_age_by_peer() -> None:
    table = Table("test")
    for order, identity in enumerate((ANN, BEN, CLEO)):
        accept(table, announcement(identity, sequence=order), now=10 * order, age_s=5)
    told = {peer: (record, age_s) for peer, record, age_s in table.records(24.9)}
    assert list(told) == sorted({ANN.peer, BEN.peer, CLEO.peer})
    assert told[BEN.peer] == (b"1", pytest.approx(19.9))
    assert ANN.peer not in {peer for peer, _, _ in table.records(25)}
