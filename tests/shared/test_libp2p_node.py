"""Parts of the libp2p process that need no network."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.errors import FrameError
from shared.libp2p_node.allowance import Allowance
from shared.libp2p_node.messages import MESSAGE_LIMIT, Heard, Neighbours, Started, encode, event_reader
from shared.libp2p_node.table_exchange import PAGE_LIMIT, PAGES_LIMIT, Page, page_after
from shared.types import PeerId

EVENTS = [Started(4001), Heard(b"record", 1.5, "12D3KooW"), Neighbours(3)]


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_an_allowance_is_used_up_and_comes_back() -> None:
    clock = Clock()
    allowance = Allowance(per_s=2, burst=3, clock=clock)
    assert [allowance.take("ann") for _ in range(4)] == [True, True, True, False]
    assert allowance.take("ben")
    clock.now = 0.5
    assert [allowance.take("ann") for _ in range(2)] == [True, False]
    clock.now = 1000.0
    assert [allowance.take("ann") for _ in range(4)] == [True, True, True, False]


def test_allowances_forget_who_has_not_asked_for_longest() -> None:
    allowance = Allowance(per_s=0, burst=1, clock=Clock(), capacity=2)
    for who in ("ann", "ben"):
        assert allowance.take(who)
    assert allowance.take("cleo")
    assert not allowance.take("ben")
    assert allowance.take("ann")


@given(st.lists(st.integers(1, 60), max_size=20))
def test_messages_come_out_however_the_bytes_arrive(cuts: list[int]) -> None:
    data = b"".join(encode(event) for event in EVENTS)
    reader, read = event_reader(), []
    for cut in cuts:
        read += reader.feed(data[:cut])
        data = data[cut:]
    read += reader.feed(data)
    assert read == EVENTS


@pytest.mark.parametrize("data", [(MESSAGE_LIMIT + 1).to_bytes(4, "big"), b"\0\0\0\1\xc1", b"\0\0\0\1\x80"])
def test_what_is_no_message_is_refused(data: bytes) -> None:
    with pytest.raises(FrameError):
        list(event_reader().feed(data))


@pytest.mark.parametrize("size", [10, 2000, 32 * 1024])
def test_the_pages_of_a_table_hold_every_record_once(size: int) -> None:
    known = [(PeerId(f"{peer:04}"), b"%04d" % peer + bytes(size), float(peer)) for peer in range(1500)]
    told: list[tuple[bytes, float]] = []
    page = Page((), "0")
    pages = 0
    while page.last:
        page = page_after(page.last if pages else "", known)
        assert sum(len(record) for record, _ in page.records) <= PAGE_LIMIT
        told += page.records
        pages += 1
    assert [record for record, _ in told] == [record for _, record, _ in known]
    assert pages <= PAGES_LIMIT
