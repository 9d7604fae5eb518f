"""Peers in the test's own process that hold a block each, for the tests of repairs."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import pytest
import torch

from tests.chains import BLOCKS, HOPS, Site, TinyModel, spare
from tests.tiny_models import make_tiny_model


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> TinyModel:
    torch.set_num_threads(1)
    return TinyModel(make_tiny_model(tmp_path_factory.mktemp("model"), blocks=BLOCKS), BLOCKS)


@pytest.fixture
async def empty_site(model: TinyModel) -> AsyncIterator[Site]:
    async with AsyncExitStack() as stack:
        site = Site(model, stack)
        yield site
        site.pool.close()


@pytest.fixture
async def site(empty_site: Site) -> Site:
    """A peer for each block."""
    for block in HOPS:
        await spare(empty_site, block)
    return empty_site
