from __future__ import annotations

import pytest

from peer.cursor import Cursor
from peer.model.cache import CacheBudget, SessionCache
from peer.sessions import GATEWAY_SILENT_S, UNNAMED_S, Session, Sessions
from shared.errors import OutOfCache, ProtocolError
from shared.types import BlockRange, PeerId, SessionId

BLOCKS = BlockRange(0, 2)


def session(number: int = 0, reserve: int = 10, opened_at: float = 100.0) -> Session:
    return Session(
        id=SessionId(f"{number:032x}"),
        gateway=PeerId("gateway"),
        upstream=PeerId("gateway"),
        downstream=PeerId("next"),
        blocks=BLOCKS,
        reserve=reserve,
        cursor=Cursor(epoch=1),
        cache=SessionCache(BLOCKS, [], reserve),
        opened_at=opened_at,
    )


def test_cache_is_reserved_until_the_session_is_freed() -> None:
    freed: list[int] = []
    sessions = Sessions(CacheBudget(25), on_freed=lambda: freed.append(sessions.budget.free))
    one, two = session(1), session(2)
    sessions.add(one)
    sessions.add(two)
    with pytest.raises(OutOfCache):
        sessions.add(session(3))
    sessions.close(one)
    assert sessions.get(one.id) is None
    assert sessions.budget.free == 5  # a forward may still use it
    sessions.free(one)
    assert freed == [15]


def test_an_id_is_never_used_twice() -> None:
    sessions = Sessions(CacheBudget(100), on_freed=lambda: None)
    one = session(1)
    sessions.add(one)
    with pytest.raises(ProtocolError):
        sessions.add(session(1))
    sessions.close(one)
    sessions.free(one)
    with pytest.raises(ProtocolError):
        sessions.add(session(1))
    assert sessions.recently_closed(one.id)


def test_a_session_is_kept_while_its_gateway_names_it() -> None:
    kept = session(opened_at=100)
    kept.named_at = 500
    assert not kept.abandoned(501, gateway_heard_at=501)


def test_a_session_that_its_gateway_names_no_more_is_abandoned() -> None:
    lost = session(opened_at=100)
    assert not lost.abandoned(100 + UNNAMED_S, gateway_heard_at=110)
    assert "name" in lost.abandoned(101 + UNNAMED_S, gateway_heard_at=110)


def test_a_session_outlives_a_short_silence_of_its_gateway() -> None:
    kept = session(opened_at=100)
    kept.named_at = 200
    assert not kept.abandoned(200 + GATEWAY_SILENT_S, gateway_heard_at=200)
    assert "silent" in kept.abandoned(201 + GATEWAY_SILENT_S, gateway_heard_at=200)
