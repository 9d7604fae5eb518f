from collections.abc import Mapping

import pytest
import torch
from torch import nn

import shared.int8
from shared.int8 import Int8Linear, quantize_rows, wide_dtype

torch.set_num_threads(1)


def weight(outputs: int, inputs: int) -> torch.Tensor:
    return torch.randn(outputs, inputs, generator=torch.Generator().manual_seed(1)) / inputs**0.5


def exact(linear: Int8Linear, x: torch.Tensor) -> torch.Tensor:
    """What the levels and scales say, in float64."""
    return x.double() @ (linear.weight.double() * linear.narrow_scale.double()[:, None]).T


@pytest.mark.parametrize("wide", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("rows", [1, 8, 9, 40])
def test_a_linear_map_keeps_its_direction(rows: int, dtype: torch.dtype, wide: torch.dtype) -> None:
    linear = nn.Linear(96, 48)
    quantized = Int8Linear(linear.weight.data, linear.bias.data, dtype)
    quantized.wide = wide
    x = torch.randn(2, rows, 96)
    y = quantized(x.to(dtype))
    assert (y.shape, y.dtype) == ((2, rows, 48), dtype)
    assert torch.cosine_similarity(y.float().flatten(), linear(x).flatten(), dim=0) > 0.9995


def test_a_channel_of_zeros_stays_zero() -> None:
    assert not Int8Linear(torch.zeros(4, 16), None, torch.float32)(torch.ones(1, 16)).any()


def test_a_few_rows_are_the_same_alone_and_together() -> None:
    linear = Int8Linear(weight(48, 96), None, torch.float32)
    x = torch.randn(linear.few_rows, 96)
    assert torch.equal(linear(x), torch.cat([linear(row[None]) for row in x]))


def test_many_rows_differ_from_few_by_rounding_alone() -> None:
    linear = Int8Linear(weight(48, 96), None, torch.float32)
    x = torch.randn(40, 96)
    torch.testing.assert_close(linear(x)[:1], linear(x[:1]), rtol=2**-7, atol=2**-12)


def test_tiles_give_what_the_whole_matrix_gives(monkeypatch: pytest.MonkeyPatch) -> None:
    x, whole = torch.randn(40, 96), Int8Linear(weight(50, 96), None, torch.float32)
    expected = whole(x)
    monkeypatch.setattr(shared.int8, "_TILE_WEIGHTS", 7 * 96)
    tiled = Int8Linear(weight(50, 96), None, torch.float32)
    assert torch.equal(tiled.weight, whole.weight)
    torch.testing.assert_close(tiled(x), expected, rtol=2**-7, atol=2**-12)


@pytest.mark.parametrize("inputs", [24, 33])
def test_inputs_that_the_packed_kernel_reads_past_are_right(inputs: int) -> None:
    linear = Int8Linear(weight(40, inputs), None, torch.bfloat16)
    x = torch.randn(2, inputs).bfloat16()
    x[1] = 3e38  # what lies behind the row
    torch.testing.assert_close(linear(x[:1]).double(), exact(linear, x[:1]), rtol=2**-6, atol=2**-8)


def test_activations_that_lie_between_words_are_right() -> None:
    linear = Int8Linear(weight(40, 64), None, torch.bfloat16)
    x = torch.randn(65).bfloat16()[1:][None]
    torch.testing.assert_close(linear(x).double(), exact(linear, x), rtol=2**-6, atol=2**-8)


def test_levels_and_scales_are_within_half_a_step() -> None:
    matrix = weight(40, 64)
    levels, scale = quantize_rows(matrix)
    assert (
        (levels * scale[:, None].float() - matrix).abs() <= 0.51 * scale.float()[:, None] + 2**-8 * matrix.abs()
    ).all()


@pytest.mark.parametrize(
    ("capabilities", "dtype"),
    [
        ({"avx512_bf16": True}, torch.bfloat16),
        ({"avx512_bf16": False, "avx2": True}, torch.float32),
        ({}, torch.float32),
    ],
)
def test_bfloat16_is_multiplied_where_the_processor_can(capabilities: Mapping[str, bool], dtype: torch.dtype) -> None:
    assert wide_dtype(capabilities) == dtype
