from __future__ import annotations

import pytest
import torch

from shared.errors import FrameError
from shared.tensors import DTYPES, Encoded, decode_hidden, encode_hidden
from shared.wire import TensorSpec


@pytest.mark.parametrize("dtype", DTYPES.values())
def test_a_tensor_comes_back_bit_by_bit(dtype: torch.dtype) -> None:
    tensor = torch.randn(3, 5).to(dtype)
    (spec,), data = encode_hidden(tensor)
    back = decode_hidden(Encoded((spec,), memoryview(bytearray(data))), (3, 5))
    assert back.dtype == dtype
    assert torch.equal(back, tensor)


def test_no_rows_have_no_bytes() -> None:
    (spec,), data = encode_hidden(torch.zeros(0, 5))
    assert len(data) == 0
    assert decode_hidden(Encoded((spec,), memoryview(data)), (0, 5)).shape == (0, 5)


@pytest.mark.parametrize(
    "specs",
    [
        (),
        (TensorSpec(name="other", dtype="float32", shape=(1, 4)),),
        (TensorSpec(name="hidden", dtype="float32", shape=(4, 1)),),
        (TensorSpec(name="hidden", dtype="bfloat16", shape=(1, 4)),),
        (TensorSpec(name="hidden", dtype="float32", shape=(1, 4)),) * 2,
    ],
)
def test_what_does_not_fit_is_refused(specs: tuple[TensorSpec, ...]) -> None:
    with pytest.raises(FrameError):
        decode_hidden(Encoded(specs, memoryview(bytearray(16))), (1, 4))
