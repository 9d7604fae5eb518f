from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from gateway.generation.ends import Ends, context_length
from shared.errors import CheckpointError
from tests.tiny_models import VOCAB_SIZE, make_tiny_model, tiny_config

torch.set_num_threads(1)

IDS = [7, 200, 31, 258, 0]
SCALED = ("cohere2", "gemma2", "granite", "gpt2", "opt", "bloom", "llama")


def load(directory: Path, dtype: torch.dtype = torch.float32) -> Ends:
    return Ends.load(directory, dtype=dtype, device=torch.device("cpu"))


@pytest.mark.parametrize("family", SCALED)
@torch.inference_mode()
def test_both_ends_equal_the_whole_model_around_its_blocks(family: str, tmp_path: Path) -> None:
    directory = make_tiny_model(tmp_path, family, blocks=2)
    model = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32)
    states: dict[str, torch.Tensor] = {}
    blocks = next(part for part in model.modules() if isinstance(part, torch.nn.ModuleList) and len(part) == 2)
    blocks[0].register_forward_pre_hook(lambda _, arguments: states.update(first=arguments[0]))
    blocks[1].register_forward_hook(
        lambda _, __, output: states.update(last=output if torch.is_tensor(output) else output[0])
    )
    logits = model(torch.tensor([IDS])).logits[0]

    ends = load(directory)
    torch.testing.assert_close(ends.embed(IDS, 0), states["first"][0], atol=1e-6, rtol=0)
    torch.testing.assert_close(ends.embed(IDS[3:], 3), states["first"][0, 3:], atol=1e-6, rtol=0)
    torch.testing.assert_close(ends.logits(states["last"][0]), logits, atol=1e-5, rtol=0)
    torch.testing.assert_close(ends.logits(states["last"][0, -1:]), logits[-1:], atol=1e-5, rtol=0)


def test_shapes_and_dtypes(tmp_path: Path) -> None:
    ends = load(make_tiny_model(tmp_path, context=384), torch.bfloat16)
    hidden = ends.embed(IDS, 0)
    assert (hidden.shape, hidden.dtype) == ((5, ends.hidden_size), torch.bfloat16)
    logits = ends.logits(hidden[-2:])
    assert (logits.shape, logits.dtype) == ((2, ends.vocab_size), torch.float32)
    assert (ends.hidden_size, ends.vocab_size, ends.context_length) == (64, VOCAB_SIZE, 384)


@pytest.mark.parametrize(("tied", "matrices"), [(True, 1), (False, 2)])
def test_only_embedding_norm_and_head_are_held_and_a_tied_one_once(tied: bool, matrices: int, tmp_path: Path) -> None:
    ends = load(make_tiny_model(tmp_path, tie_word_embeddings=tied))
    rotary = 2 * 8 * 4  # bytes of inverse frequencies, which are computed, not loaded
    assert ends.parameter_bytes == (matrices * VOCAB_SIZE * 64 + 64) * 4 + rotary


@pytest.mark.parametrize("family", ["llama", "gpt2", "gptj", "mpt", "opt", "falcon", "bloom"])
def test_every_family_says_how_long_a_context_may_be(family: str) -> None:
    assert context_length(tiny_config(family, context=384)) == 384


def test_a_configuration_without_a_context_is_refused() -> None:
    config = tiny_config("bloom")
    delattr(config, "seq_length")
    with pytest.raises(CheckpointError, match=r"how long a context"):
        context_length(config)
