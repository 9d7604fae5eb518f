import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from gateway.generation.ends import Ends
from shared.anatomy import context_length, core_of, takes_position_ids
from shared.errors import CheckpointError, UsageError
from tests.peer.model.families import VARIANTS
from tests.tiny_models import VOCAB_SIZE, make_tiny_model, tiny_config

torch.set_num_threads(1)

IDS = [7, 200, 31, 258, 0]
PLACES = [3, 0, 40, 3, 17]


def load(directory: Path, dtype: torch.dtype = torch.float32) -> Ends:
    return Ends.load(directory, dtype=dtype, device=torch.device("cpu"))


@torch.inference_mode()
def around_blocks(directory: Path, positions: list[int]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """What transformers' whole model gives its first block, gets from its last, (tokens, hidden), and scores."""
    model = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32)
    states: dict[str, torch.Tensor] = {}
    blocks = next(part for part in model.modules() if isinstance(part, torch.nn.ModuleList) and len(part) == 2)
    blocks[0].register_forward_pre_hook(lambda _, arguments: states.update(first=arguments[0]))
    blocks[1].register_forward_hook(
        lambda _, __, output: states.update(last=output if torch.is_tensor(output) else output[0])
    )
    places = {"position_ids": torch.tensor([positions])} if takes_position_ids(core_of(model)) else {}
    logits = model(torch.tensor([IDS]), **places).logits[0]
    return states["first"][0], states["last"][0], logits


@pytest.mark.parametrize(("family", "overrides"), VARIANTS, ids=lambda value: str(value).replace("{}", "plain"))
def test_both_ends_equal_the_whole_model_around_its_blocks(
    family: str, overrides: dict[str, Any], tmp_path: Path
) -> None:
    directory = make_tiny_model(tmp_path, family, blocks=2, **overrides)
    ends = load(directory)
    first, last, logits = around_blocks(directory, list(range(len(IDS))))
    projected = 1e-6 if "word_embed_proj_dim" in overrides else 0  # a matrix product; else it must be exact
    torch.testing.assert_close(ends.embed(IDS, 0), first, atol=projected, rtol=0)
    torch.testing.assert_close(ends.embed(IDS[3:], 3), first[3:], atol=projected, rtol=0)
    torch.testing.assert_close(
        ends.embed_each(IDS, PLACES), around_blocks(directory, PLACES)[0], atol=projected, rtol=0
    )
    torch.testing.assert_close(ends.logits(last), logits, atol=1e-5, rtol=0)
    for place in range(len(IDS)):
        torch.testing.assert_close(ends.logits(last[place : place + 1])[0], logits[place], atol=1e-5, rtol=0)


def test_shapes_and_dtypes(tmp_path: Path) -> None:
    ends = load(make_tiny_model(tmp_path, context=384), torch.bfloat16)
    hidden = ends.embed(IDS, 0)
    assert (hidden.shape, hidden.dtype) == ((5, ends.hidden_size), torch.bfloat16)
    logits = ends.logits(hidden[-2:])
    assert (logits.shape, logits.dtype) == ((2, ends.vocab_size), torch.float32)
    assert (ends.hidden_size, ends.vocab_size, ends.context_length) == (64, VOCAB_SIZE, 384)


@pytest.mark.parametrize("tied", [True, False])
def test_norm_and_head_are_held_and_the_embedding_is_not(tied: bool, tmp_path: Path) -> None:
    ends = load(make_tiny_model(tmp_path, tie_word_embeddings=tied))
    rotary = 2 * 8 * 4  # bytes of inverse frequencies, which are computed, not loaded
    assert ends.parameter_bytes == (VOCAB_SIZE * 64 + 64) * 4 + rotary


def test_rows_are_read_in_the_stored_dtype_and_outlive_the_folder(tmp_path: Path) -> None:
    directory = make_tiny_model(tmp_path / "model", "gemma2", dtype=torch.bfloat16)
    expected = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32).get_input_embeddings()
    ends = load(directory)
    shutil.rmtree(directory)
    with torch.inference_mode():
        torch.testing.assert_close(ends.embed(IDS, 0), expected(torch.tensor(IDS)), atol=0, rtol=0)


def test_a_tied_matrix_that_is_stored_as_the_head_is_found(tmp_path: Path) -> None:
    directory = make_tiny_model(tmp_path, tie_word_embeddings=True, shard_size="1GB")
    expected = load(directory).embed(IDS, 0)
    tensors = load_file(directory / "model.safetensors")
    tensors["lm_head.weight"] = tensors.pop("model.embed_tokens.weight")
    save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})
    torch.testing.assert_close(load(directory).embed(IDS, 0), expected, atol=0, rtol=0)


def test_an_embedding_of_another_shape_is_refused(tmp_path: Path) -> None:
    directory = make_tiny_model(tmp_path, shard_size="1GB")
    tensors = load_file(directory / "model.safetensors")
    tensors["model.embed_tokens.weight"] = tensors["model.embed_tokens.weight"][:-1].clone()
    save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match=r"fit"):
        load(directory)


@pytest.mark.parametrize(("family", "tied"), [("llama", False), ("gemma2", True), ("gptj", False)])
def test_an_int8_head_takes_a_quarter_and_scores_nearly_the_same(family: str, tied: bool, tmp_path: Path) -> None:
    directory = make_tiny_model(tmp_path, family, blocks=2, tie_word_embeddings=tied)
    plain = load(directory)
    small = Ends.load(directory, dtype=torch.float32, device=torch.device("cpu"), head="int8")
    assert small.parameter_bytes < plain.parameter_bytes / 3
    hidden = torch.randn(200, 64, generator=torch.Generator().manual_seed(0))
    expected, scores = plain.logits(hidden), small.logits(hidden)
    assert (scores - expected).abs().max() < 0.05 * expected.abs().max()
    assert (scores.argmax(1) == expected.argmax(1)).float().mean() > 0.9
    torch.testing.assert_close(small.embed(IDS, 0), plain.embed(IDS, 0), atol=0, rtol=0)


def test_an_int8_head_on_a_gpu_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--head none"):
        Ends.load(tmp_path, dtype=torch.float32, device=torch.device("cuda"), head="int8")


@pytest.mark.parametrize("family", ["llama", "gpt2", "gptj", "mpt", "opt", "falcon", "bloom"])
def test_every_family_says_how_long_a_context_may_be(family: str) -> None:
    assert context_length(tiny_config(family, context=384)) == 384


def test_a_configuration_without_a_context_is_refused() -> None:
    config = tiny_config("bloom")
    delattr(config, "seq_length")
    with pytest.raises(CheckpointError, match=r"how long a context"):
        context_length(config)
