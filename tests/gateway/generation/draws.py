"""One row's draw, and its noise by itself."""

import torch

from gateway.generation.sampling import Floats, SamplingParams, _gumbel, _random_words, sample_rows


def sample(logits: torch.Tensor, params: SamplingParams, position: int) -> int:
    """The token id for `position`, from logits of shape (vocabulary,)."""
    return sample_rows(logits[None], [params], [position])[0]


def gumbel_noise(vocabulary: int, seed: int, choice: int, position: int) -> Floats:
    """Standard Gumbel noise of every token id."""
    return _gumbel(_random_words(vocabulary, seed, choice, position))
