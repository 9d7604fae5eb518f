"""What a pause after a fault consists of: detection, connecting, the bytes to replay, and their prefill. No swarm."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import torch

from benchmarks.hosts import Line
from peer.model.blocks import Blocks
from shared.checkpoint import Checkpoint
from shared.types import BlockRange

CHUNK = 256  # tokens of a frame
FLOAT32_BYTES = 4
TRIPS = 2.0
"""Round trips after the first sign of a death, which itself takes half of one: half of one for the orders, one for the
Attach and its answer, and half of one until the first replayed byte arrives."""

FIRST_WINDOW_BYTES = 10 * 1448
"""What a fresh TCP connection sends before the first acknowledgement (RFC 6928); it doubles with each round trip."""

ROUNDS = 3


@dataclass(frozen=True, slots=True)
class Prediction:
    """Seconds of each part. The last byte's prefill begins when it has arrived, so the sum is an upper bound."""

    detection_s: float
    connect_s: float
    transfer_s: float
    prefill_s: float
    step_s: float

    @property
    def total_s(self) -> float:
        return self.detection_s + self.connect_s + self.transfer_s + self.prefill_s + self.step_s


def predict(line: Line | None, replayed_bytes: int, prefill_s: float, step_s: float) -> Prediction:
    """The pause after a kill, with spare links open: `prefill_s` at the replacement, `step_s` a usual step after it."""
    if line is None:
        return Prediction(0.0, 0.0, 0.0, prefill_s, step_s)
    trip_s = line.round_trip_s
    return Prediction(trip_s / 2, TRIPS * trip_s, transfer_s(line, replayed_bytes), prefill_s, step_s)


def transfer_s(line: Line, size: int) -> float:
    """Seconds to send so many bytes on an idle connection, which has to find out first how fast it may be."""
    full = line.bytes_per_s * line.round_trip_s
    window, sent, waited_s = float(FIRST_WINDOW_BYTES), 0.0, 0.0
    while window < full and sent + window < size:
        sent, window, waited_s = sent + window, 2 * window, waited_s + line.round_trip_s
    return waited_s + (size - sent) / line.bytes_per_s


class Replay:
    """A replacement's part of a recovery, alone: a range of a model's blocks in this process, with one thread."""

    def __init__(self, checkpoint: Checkpoint, blocks: BlockRange) -> None:
        torch.set_num_threads(1)
        with checkpoint.prepare(blocks) as part:
            self._blocks = _load(part, blocks)

    def bytes(self, tokens: int) -> int:
        """Hidden states of so many tokens, as they travel."""
        return tokens * self._blocks.hidden_size * FLOAT32_BYTES

    @torch.inference_mode()
    def prefill_s(self, tokens: int) -> float:
        """The median of some rounds, the first of them unseen."""
        hidden = torch.randn(tokens, self._blocks.hidden_size)
        return statistics.median([self._once(hidden) for _ in range(1 + ROUNDS)][1:])

    def _once(self, hidden: torch.Tensor) -> float:
        cache = self._blocks.new_cache(self._blocks.range, len(hidden))
        started = time.perf_counter()
        for position, chunk in _chunks(hidden):
            self._blocks.forward(chunk, cache, position)
        return time.perf_counter() - started


def _load(part: Path, blocks: BlockRange) -> Blocks:
    return Blocks.load(part, blocks, dtype=torch.float32, device=torch.device("cpu"), quantization="none")


def _chunks(hidden: torch.Tensor) -> Iterable[tuple[int, torch.Tensor]]:
    return ((position, hidden[position : position + CHUNK]) for position in range(0, len(hidden), CHUNK))
