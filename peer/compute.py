"""What a peer computes with: device, dtype, quantization."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from peer.settings import PeerSettings
from shared.checkpoint import Checkpoint
from shared.device import choose_device, choose_dtype

INT8_BYTES = 1


@dataclass(frozen=True, slots=True)
class Compute:
    """What the blocks are computed with."""

    device: torch.device
    dtype: torch.dtype
    quantization: str

    @classmethod
    def choose(cls, settings: PeerSettings, checkpoint: Checkpoint) -> Compute:
        """Raises UsageError for a device that is not there, or what it cannot do."""
        device = choose_device(settings.device)
        quantization = "none" if settings.quantize == "auto" else settings.quantize
        return cls(device, choose_dtype(settings.dtype, device, checkpoint.config), quantization)

    @property
    def element_bytes(self) -> int:
        """What one weight takes."""
        return INT8_BYTES if self.quantization == "int8" else self.dtype.itemsize
