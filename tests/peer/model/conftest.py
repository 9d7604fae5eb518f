"""Checkpoints that several of these tests read."""

from pathlib import Path

import pytest
import torch

from tests.tiny_models import make_tiny_model

torch.set_num_threads(1)


@pytest.fixture(scope="session")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six blocks, grouped-query attention, several shards."""
    return make_tiny_model(tmp_path_factory.mktemp("llama"))


@pytest.fixture(scope="session")
def gemma3(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six blocks: five with a window of eight tokens, then one that sees all."""
    return make_tiny_model(tmp_path_factory.mktemp("gemma3"), "gemma3_text", context=4096)


@pytest.fixture(scope="session")
def thirty_blocks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Thirty blocks of SmolLM2-135M's shape in bfloat16, 212 MB."""
    return make_tiny_model(
        tmp_path_factory.mktemp("thirty"),
        blocks=30,
        dtype=torch.bfloat16,
        shard_size="50MB",
        hidden_size=576,
        intermediate_size=1536,
        num_attention_heads=9,
        num_key_value_heads=3,
        head_dim=64,
    )
