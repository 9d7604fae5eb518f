"""From settings to loaded blocks: which range, and its weights. Blocking; run it beside the loop."""

from __future__ import annotations

from collections.abc import Sequence

from peer.compute import Compute
from peer.fitting import Fitting
from peer.model.blocks import Blocks
from peer.placement import choose_blocks
from peer.settings import PeerSettings
from shared.checkpoint import Checkpoint
from shared.checkpoint.progress import show_progress
from shared.errors import UsageError
from shared.types import BlockRange


def check_range(settings: PeerSettings, checkpoint: Checkpoint) -> None:
    """Raises UsageError for a range outside the model."""
    if settings.blocks and settings.blocks.end > checkpoint.blocks:
        raise UsageError(
            f"--blocks {settings.blocks}: {checkpoint.id} has {checkpoint.blocks} blocks, so say a range "
            f"within 0:{checkpoint.blocks}"
        )


def place(fitting: Fitting, held: Sequence[BlockRange]) -> BlockRange:
    """The blocks that this peer takes, beside those that others hold. Raises NotEnoughMemory."""
    settings = fitting.settings
    blocks = settings.blocks or choose_blocks(fitting.checkpoint.blocks, settings.num_blocks or fitting.count(), held)
    fitting.check(blocks)
    return blocks


def load_blocks(checkpoint: Checkpoint, blocks: BlockRange, compute: Compute) -> Blocks:
    """Fetch what is missing and load it. Raises CheckpointError, UsageError."""
    with checkpoint.prepare(blocks) as directory, show_progress(f"Loading blocks {blocks} of {checkpoint.id}"):
        return Blocks.load(
            directory, blocks, dtype=compute.dtype, device=compute.device, quantization=compute.quantization
        )
