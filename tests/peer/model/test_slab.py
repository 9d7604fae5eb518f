from itertools import pairwise

import pytest
import torch

from peer.model.slab import SLACK, SlabLayer

WINDOW = 8
ROWS = torch.arange(2500, dtype=torch.float32)


def write(layer: SlabLayer, start: int, end: int) -> tuple[list[float], list[float]]:
    """Writes rows [start, end) whose numbers are their positions; returns what a query would see of keys and values."""
    layer.length = start
    rows = ROWS[start:end].view(1, 1, -1, 1)
    keys, values = layer.update(rows.expand(1, 2, -1, 3), -rows)
    layer.length = end
    return keys[0, 1, :, 2].tolist(), values[0, 0, :, 0].tolist()


@pytest.mark.parametrize("borders", [range(0, 2401, 1), range(0, 2401, 7), range(0, 2401, 600), (0, 1500, 1501, 2400)])
@pytest.mark.parametrize("window", [None, WINDOW])
def test_a_query_sees_its_window_however_the_rows_came(borders: range, window: int | None) -> None:
    layer = SlabLayer(reserve=2400, window=window)
    for start, end in pairwise(borders):
        offset = 0 if window is None else max(0, start - window + 1)
        assert layer.get_mask_sizes(end - start) == (end - offset, offset)
        keys, values = write(layer, start, end)
        assert keys == ROWS[offset:end].tolist()
        assert values == (-ROWS[offset:end]).tolist()


def test_rows_are_doubled_and_never_exceed_the_reservation() -> None:
    layer = SlabLayer(reserve=150)
    capacities = []
    for start in range(150):
        write(layer, start, start + 1)
        assert layer.keys is not None
        capacities.append(layer.keys.shape[2])
    assert sorted(set(capacities)) == [64, 128, 150]


def test_a_sliding_layer_keeps_its_window_and_the_slack_only() -> None:
    layer = SlabLayer(reserve=2400, window=WINDOW)
    for start in range(2400):
        write(layer, start, start + 1)
    assert layer.keys is not None
    assert layer.keys.shape[2] == WINDOW + 2 * SLACK


def test_a_crop_within_the_slack_is_held_and_a_deeper_one_is_not() -> None:
    layer = SlabLayer(reserve=2500, window=WINDOW)
    for start in range(2400):
        write(layer, start, start + 1)
    assert layer.first < layer.shallowest <= 2400 - SLACK
    layer.crop(2400 - SLACK)
    assert write(layer, 2400 - SLACK, 2401 - SLACK)[0] == ROWS[2400 - SLACK - WINDOW + 1 : 2401 - SLACK].tolist()


def test_rows_written_but_not_committed_are_written_over() -> None:
    layer = SlabLayer(reserve=20)
    write(layer, 0, 10)
    layer.update(torch.zeros(1, 2, 5, 3), torch.zeros(1, 1, 5, 1))  # a forward that failed further on
    assert write(layer, 10, 12)[0] == ROWS[:12].tolist()


def test_token_bytes_counts_both_tensors() -> None:
    layer = SlabLayer(reserve=20)
    assert layer.token_bytes == 0
    write(layer, 0, 3)
    assert layer.token_bytes == (2 * 3 + 1) * 4
