import pytest

from peer.model.cache import CacheBudget, SessionCache
from peer.model.slab import SlabLayer
from shared.errors import CacheOverrun, OutOfCache, PositionGap
from shared.types import BlockRange


@pytest.fixture
def cache() -> SessionCache:
    """Twelve of twenty tokens, over two blocks."""
    cache = SessionCache(BlockRange(3, 5), [SlabLayer(20), SlabLayer(20)], reserve=20)
    cache.begin(0, 12)
    cache.commit(12)
    return cache


def test_a_lower_position_crops_every_layer(cache: SessionCache) -> None:
    cache.begin(9, 1)
    assert [cache.length, *(layer.length for layer in cache.layers)] == [9, 9, 9]


def test_a_gap_is_refused_and_changes_nothing(cache: SessionCache) -> None:
    with pytest.raises(PositionGap, match=r"13.*12"):
        cache.begin(13, 1)
    assert cache.length == 12


def test_the_reservation_is_the_limit(cache: SessionCache) -> None:
    cache.begin(12, 8)
    with pytest.raises(CacheOverrun, match=r"21.*20"):
        cache.begin(12, 9)
    with pytest.raises(CacheOverrun):
        cache.begin(5, 16)
    assert cache.length == 12


def test_budget_counts_what_is_promised() -> None:
    budget = CacheBudget(100)
    budget.reserve(60)
    with pytest.raises(OutOfCache, match=r"41.*40 of 100"):
        budget.reserve(41)
    budget.reserve(40)
    assert budget.free == 0
    budget.release(60)
    assert (budget.free, budget.total) == (60, 100)
