from __future__ import annotations

from collections.abc import Callable

import pytest

from peer.cursor import Cursor
from peer.model.cache import SESSION_TOKENS, CacheBudget, SessionCache
from peer.model.slab import SlabLayer
from peer.outbox import OutboxBudget
from peer.sessions import GATEWAY_SILENT_S, SESSIONS_LIMIT, UNNAMED_S, Session, Sessions
from shared.errors import OutOfCache, ProtocolError
from shared.types import BlockRange, PeerId, SessionId

BLOCKS = BlockRange(0, 2)
BLOCK_BYTES = 100  # of one token in one block


def cost(blocks: BlockRange, tokens: int) -> int:
    return BLOCK_BYTES * tokens * len(blocks)


def budget(tokens: int) -> CacheBudget:
    return CacheBudget.of_tokens(tokens, BLOCKS, cost)


def sessions_of(budget: CacheBudget, on_budget: Callable[[PeerId], None]) -> Sessions:
    return Sessions(budget, OutboxBudget(10**6), on_budget)


def session(number: int = 0, reserve: int = 10, opened_at: float = 100.0, blocks: BlockRange = BLOCKS) -> Session:
    return Session(
        id=SessionId(f"{number:032x}"),
        gateway=PeerId("gateway"),
        upstream=PeerId("gateway"),
        downstream=PeerId("next"),
        blocks=blocks,
        reserve=reserve,
        cursor=Cursor(epoch=1),
        cache=SessionCache(blocks, [SlabLayer(reserve) for _ in range(len(blocks))], reserve),
        opened_at=opened_at,
    )


def test_cache_is_reserved_until_the_session_is_freed_and_each_change_is_told() -> None:
    told: list[int] = []
    sessions = Sessions(
        budget(30), OutboxBudget(10**6), on_budget=lambda gateway: told.append(sessions.budget.free_tokens)
    )
    one, two = session(1), session(2)
    sessions.add(one)
    sessions.add(two)
    with pytest.raises(OutOfCache):
        sessions.add(session(3))
    sessions.close(one)
    assert sessions.get(one.id) is None
    assert sessions.budget.free_tokens == 10  # a forward may still use it
    sessions.free(one)
    sessions.free(one)
    assert told == [20, 10, 20]


def test_an_extended_session_gives_back_exactly_what_it_took() -> None:
    told: list[int] = []
    sessions = Sessions(
        budget(100), OutboxBudget(10**6), on_budget=lambda gateway: told.append(sessions.budget.free_tokens)
    )
    part = session(1, reserve=10, blocks=BlockRange(1, 2))
    sessions.add(part)
    sessions.extend(part, 60)
    assert (part.reserve, part.cache.reserve, part.cache.layers[0].reserve) == (60, 60, 60)
    assert sessions.budget.total - sessions.budget.free == 60 * BLOCK_BYTES  # one block of the two
    sessions.close(part)
    sessions.free(part)
    assert told == [95, 70, 100]


def test_a_refused_extension_changes_nothing() -> None:
    told: list[int] = []
    sessions = Sessions(
        budget(100), OutboxBudget(10**6), on_budget=lambda gateway: told.append(sessions.budget.free_tokens)
    )
    one = session(1, reserve=60)
    sessions.add(one)
    for refused in (101, SESSION_TOKENS + 1):
        with pytest.raises(OutOfCache):
            sessions.extend(one, refused)
    sessions.extend(one, 60)
    sessions.extend(one, 7)
    assert (one.reserve, one.cache.reserve, sessions.budget.free_tokens, told) == (60, 60, 40, [40])


def test_a_peer_with_its_limit_of_sessions_has_room_for_no_other() -> None:
    sessions = sessions_of(budget(100 * SESSIONS_LIMIT), lambda gateway: None)
    for number in range(SESSIONS_LIMIT):
        assert sessions.room_tokens > 0
        sessions.add(session(number, reserve=1))
    assert sessions.room_tokens == 0
    with pytest.raises(OutOfCache, match="limit"):
        sessions.add(session(SESSIONS_LIMIT, reserve=1))


def test_an_id_is_never_used_twice() -> None:
    sessions = sessions_of(budget(100), lambda gateway: None)
    one = session(1)
    sessions.add(one)
    with pytest.raises(ProtocolError):
        sessions.add(session(1))
    sessions.close(one)
    sessions.free(one)
    with pytest.raises(ProtocolError):
        sessions.add(session(1))
    assert sessions.has_ended(one.id, 1)


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
