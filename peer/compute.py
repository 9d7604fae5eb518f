"""What a peer computes with: device, dtype, quantization."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from peer.settings import PeerSettings
from shared.checkpoint import Checkpoint
from shared.device import choose_device, choose_dtype

_QUANTIZED_BYTES = {"int8": 1.02, "nf4": 0.54}  # with the scales: an upper bound from 512 inputs on
_BY_LOSS = ("none", "int8", "nf4")


@dataclass(frozen=True, slots=True)
class Compute:
    """What the blocks are computed with."""

    device: torch.device
    dtype: torch.dtype
    quantization: str

    @classmethod
    def choose(cls, settings: PeerSettings, checkpoint: Checkpoint) -> Compute:
        """`--quantize auto` stays "none" here: `choose_quantization` knows more, once memory has been looked at.

        Raises UsageError for a device that is not there, or what it cannot do.
        """
        device = choose_device(settings.device)
        quantization = "none" if settings.quantize == "auto" else settings.quantize
        return cls(device, choose_dtype(settings.dtype, device, checkpoint.config), quantization)

    @property
    def element_bytes(self) -> float:
        """What one weight takes."""
        return bytes_per_weight(self.quantization, self.dtype)


def choose_quantization(asked: str, fits: Callable[[str], bool]) -> str:
    """What `--quantize` means: for `auto` the first of none, int8 and nf4 with which the blocks fit, or else the last.

    `fits` tells whether they do when they are quantized so.
    """
    if asked != "auto":
        return asked
    return next((quantization for quantization in _BY_LOSS if fits(quantization)), _BY_LOSS[-1])


def bytes_per_weight(quantization: str, dtype: torch.dtype) -> float:
    """What one weight of a block takes in memory, its share of the scales included."""
    return _QUANTIZED_BYTES.get(quantization, dtype.itemsize)
