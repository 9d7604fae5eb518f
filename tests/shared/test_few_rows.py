from __future__ import annotations

import pytest
import torch
from torch import nn

from shared.few_rows import FewRowsLinear, speed_up_decoding


@pytest.mark.parametrize("shape", [(48, 32), (32, 48), (32, 32), (64, 1500), (1600, 1500), (64, 3000), (3500, 3000)])
@pytest.mark.parametrize("bias", [True, False])
def test_every_number_of_rows_gives_what_it_gave(shape: tuple[int, int], bias: bool) -> None:
    plain = nn.Linear(shape[1], shape[0], bias=bias)
    model = nn.Sequential(nn.Linear(shape[1], shape[0], bias=bias))
    model[0].load_state_dict(plain.state_dict())
    speed_up_decoding(model)
    with torch.inference_mode():
        for rows in (1, 2, 3, 8, 9, 40):
            x = torch.randn(1, rows, shape[1])
            torch.testing.assert_close(model(x), plain(x), atol=1e-4, rtol=1e-5)
            assert model(x).is_contiguous()
        assert model(torch.randn(shape[1])).shape == (shape[0],)
        assert model(torch.randn(2, 0, shape[1])).shape == (2, 0, shape[0])


def test_tied_weights_stay_tied() -> None:
    model = nn.ModuleDict({"embedding": nn.Embedding(50, 32), "head": nn.Linear(32, 50, bias=False)})
    model["head"].weight = model["embedding"].weight
    speed_up_decoding(model)
    assert isinstance(model["head"], FewRowsLinear)
    assert model["head"].weight is model["embedding"].weight


def test_what_does_not_gain_is_left_alone() -> None:
    class Router(nn.Linear):
        """A family's own kind of linear map."""

    model = nn.Sequential(nn.Linear(32, 48, dtype=torch.bfloat16), Router(32, 4))
    speed_up_decoding(model)
    assert [type(part) for part in model] == [nn.Linear, Router]
