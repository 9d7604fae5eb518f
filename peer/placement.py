"""Which blocks a joining peer takes. Pure."""

from __future__ import annotations

from collections.abc import Iterable

from shared.types import BlockRange


def choose_blocks(total: int, count: int, held: Iterable[BlockRange]) -> BlockRange:
    """`count` of `total` blocks: from the first hole, else where the fewest peers hold the least-held block.

    A range that would reach beyond the model is moved down, so that it keeps its length.
    """
    coverage = [0] * total
    for blocks in held:
        for block in range(blocks.start, min(blocks.end, total)):
            coverage[block] += 1
    count = min(count, total)
    if 0 in coverage:
        start = coverage.index(0)
    else:
        windows = range(total - count + 1)
        start = min(
            windows, key=lambda first: (min(coverage[first : first + count]), sum(coverage[first : first + count]))
        )
    start = min(start, total - count)
    return BlockRange(start, start + count)


def blocks_that_fit(block_bytes: list[int], cache_bytes_per_block: int, room_bytes: int) -> int:
    """How many blocks of these sizes, in this order and each with its cache, fit into the room (perhaps none)."""
    count = 0
    for size in block_bytes:
        room_bytes -= size + cache_bytes_per_block
        if room_bytes < 0:
            break
        count += 1
    return count
