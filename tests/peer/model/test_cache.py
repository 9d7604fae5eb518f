import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import pytest
import torch

from peer.model.blocks import Blocks
from peer.model.cache import SESSION_TOKENS, CacheBudget, SessionCache, longest_session
from peer.model.slab import SlabLayer
from shared.errors import CacheOverrun, OutOfCache, PositionGap
from shared.types import BlockRange


def load(directory: Path) -> Blocks:
    return Blocks.load(
        directory, BlockRange(0, 6), dtype=torch.float32, device=torch.device("cpu"), quantization="none"
    )


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


def test_a_grown_cache_takes_what_it_took_before_and_the_tokens_beyond(cache: SessionCache) -> None:
    states = torch.zeros(1, 1, 18, 4)
    cache.update(states[:, :, :8], states[:, :, :8], 3)
    cache.grow(30)
    cache.begin(12, 18)
    keys, _ = cache.update(states, states, 4)  # the forward goes on in the next block with the new limit
    assert keys.shape[2] == 30
    with pytest.raises(CacheOverrun):
        cache.begin(12, 19)


@pytest.mark.parametrize("model", ["llama", "gemma3"])
def test_a_cache_that_grows_while_forwards_run_gives_the_same(model: str, request: pytest.FixtureRequest) -> None:
    blocks = load(request.getfixturevalue(model))
    hidden = torch.randn(300, 64)
    undisturbed, grown = blocks.new_cache(blocks.range, 300), blocks.new_cache(blocks.range, 20)
    with ThreadPoolExecutor(1) as torch_thread:
        for start in range(0, 300, 10):
            grown.grow(max(grown.reserve, start + 10))
            forward = torch_thread.submit(blocks.forward, hidden[start : start + 10], grown, start)
            while not forward.done():
                grown.grow(grown.reserve + 1)
                time.sleep(0)  # lets the other thread have the interpreter: it would wait 5 ms for it at each step
            wanted = blocks.forward(hidden[start : start + 10], undisturbed, start)
            torch.testing.assert_close(forward.result(), wanted, atol=0, rtol=0)


WHOLE = BlockRange(3, 7)


def cost(blocks: BlockRange, tokens: int) -> int:
    """Ten bytes a token in each block; blocks 4 and 5 keep 300 and 1,000 tokens at most."""
    windows = {4: 300, 5: 1000}
    return sum(10 * min(tokens, windows.get(block, tokens)) for block in range(blocks.start, blocks.end))


def test_new_sessions_leave_a_tenth_to_those_that_grow() -> None:
    budget = CacheBudget.of_tokens(100, WHOLE, cost)
    assert (budget.tokens, budget.free_tokens, budget.longest_tokens, budget.total) == (100, 100, 90, 4000)
    held = budget.open(WHOLE, 60)
    assert (budget.free_tokens, budget.room_tokens, budget.longest_tokens) == (40, 30, 90)
    with pytest.raises(OutOfCache, match=r"31 tokens .* room for 30"):
        budget.open(WHOLE, 31)
    with pytest.raises(OutOfCache):
        budget.extend(held, WHOLE, 101, needed=True)
    with pytest.raises(OutOfCache):
        budget.extend(held, WHOLE, 91, needed=False)
    held = budget.extend(held, WHOLE, 100, needed=True)
    assert (budget.free, budget.room_tokens) == (0, 0)
    budget.release(held)
    assert budget.free_tokens == budget.tokens


def test_a_session_over_part_of_the_range_costs_less() -> None:
    budget = CacheBudget.of_tokens(100, WHOLE, cost)
    assert budget.open(BlockRange(3, 4), 80) == 800
    assert budget.free == 3200


def test_no_session_is_longer_than_the_limit_however_little_it_costs() -> None:
    budget = CacheBudget.of_tokens(10**6, WHOLE, lambda blocks, tokens: min(tokens, 1000))  # all blocks slide
    assert (budget.longest_tokens, budget.open(WHOLE, SESSION_TOKENS)) == (SESSION_TOKENS, 1000)
    with pytest.raises(OutOfCache, match=str(SESSION_TOKENS)):
        budget.open(WHOLE, SESSION_TOKENS + 1)


@pytest.mark.parametrize("size", [0, 39, 40, 12_000, 12_001, 33_000, 33_019, 33_020, 10**6, 10**12])
def test_the_longest_session_is_the_last_that_fits(size: int) -> None:
    tokens = longest_session(size, partial(cost, WHOLE))
    assert cost(WHOLE, tokens) <= size
    assert tokens == SESSION_TOKENS or cost(WHOLE, tokens + 1) > size


def test_the_budget_is_that_of_the_real_blocks(gemma3: Path) -> None:
    """A window of eight tokens keeps 1,032 rows at most, and one block of the six keeps all."""
    blocks = load(gemma3)
    budget = CacheBudget.of_tokens(10_000, blocks.range, blocks.cache_bytes)
    row = 2 * 2 * 16 * 4  # (k, v), heads, dim, float32
    assert budget.total == 10_000 * 6 * row
    assert budget.open(blocks.range, 3000) == (5 * 1032 + 3000) * row
    assert budget.longest_tokens == 9_000 * 6 - 5 * 1032
