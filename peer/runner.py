"""What the torch thread does with a forward's shares: hidden states in, what each session sends on out."""

from __future__ import annotations

import time
from collections.abc import Sequence

import msgspec
import torch

from peer.batch import Share, Slice
from peer.model.blocks import Blocks
from peer.model.cache import SessionCache
from peer.model.ragged import Part
from shared.errors import CorollaError, HopFailed
from shared.tensors import Encoded, check_finite, decode_hidden, encode_hidden
from shared.types import PeerId
from shared.wire import HOPS_LIMIT, HopTime, Output, Step

Results = list[tuple[Step | Output, memoryview]] | CorollaError
"""What a share's slices send on, in order; or why its session cannot go on."""


class Runner:
    """Runs shares through the blocks; one thread at a time. Caches are touched nowhere else."""

    def __init__(self, me: PeerId, blocks: Blocks) -> None:
        self._me = me
        self._blocks = blocks

    def run(self, shares: Sequence[Share], started: float) -> list[Results]:
        """Check, run together, check, encode; `started` by the monotonic clock.

        What fails together is tried alone: only who is at fault fails.
        """
        inputs = [self._input(share) for share in shares]
        parts = [part for part in inputs if isinstance(part, Part)]
        outputs = iter(self._outcomes(parts))
        results = [next(outputs) if isinstance(part, Part) else part for part in inputs]
        seconds = time.monotonic() - started
        return [
            self._results(share, result, started, seconds) if isinstance(result, torch.Tensor) else result
            for share, result in zip(shares, results, strict=True)
        ]

    def fork(self, cache: SessionCache, parent: SessionCache, length: int) -> None:
        """Make an empty cache a copy of the first `length` tokens of another one. Raises HopFailed."""
        try:
            cache.take(parent, length)
        except Exception as error:  # torch is met here: whatever it lacks, the session ends alone
            raise HopFailed(self._me, "cannot_fork", f"the cache cannot be copied: {str(error)[:300]}") from error

    def _input(self, share: Share) -> Part | CorollaError:
        session, first = share.session, share.slices[0]
        try:
            pieces = [self._hidden(part) for part in share.slices]
            hidden = pieces[0] if len(pieces) == 1 else torch.cat(pieces)
            check_finite(hidden, session.upstream)
        except CorollaError as error:
            return error
        return Part(hidden, session.cache, first.waiting.step.position + first.start)

    def _hidden(self, part: Slice) -> torch.Tensor:
        step = part.waiting.step
        whole = decode_hidden(Encoded(step.tensors, part.waiting.payload), (step.count, self._blocks.hidden_size))
        return whole[part.start : part.end]

    def _outcomes(self, parts: list[Part]) -> list[torch.Tensor | CorollaError]:
        """Outputs in main memory. A part whose cache cannot take it is left out."""
        outcomes = [self._begin(part) for part in parts]
        runnable = [part for part in outcomes if isinstance(part, Part)]
        outputs = iter(self._forward_together(runnable) if runnable else [])
        return [next(outputs) if isinstance(part, Part) else part for part in outcomes]

    def _begin(self, part: Part) -> Part | CorollaError:
        """The part, if its cache can take it: asked here too, one by one, lest one refusal undo the sharing of all."""
        try:
            part.cache.begin(part.position, len(part.hidden))
        except CorollaError as error:
            return error
        return part

    def _forward_together(self, parts: list[Part]) -> list[torch.Tensor | CorollaError]:
        try:
            outputs = torch.cat(self._blocks.forward_together(parts)).cpu()  # one copy, one wait for the device
        except Exception as error:  # noqa: BLE001 - what others sent meets torch and the family's own code here
            if len(parts) == 1:
                return [HopFailed(self._me, "forward", f"the forward failed: {str(error)[:300]}")]
            return [outcome for part in parts for outcome in self._forward_together([part])]
        return [self._checked(output) for output in outputs.split([len(part.hidden) for part in parts])]

    def _checked(self, output: torch.Tensor) -> torch.Tensor | CorollaError:
        try:
            check_finite(output, self._me)
        except HopFailed as error:
            return error
        return output

    def _results(self, share: Share, output: torch.Tensor, started: float, seconds: float) -> Results:
        outputs = output.split([part.end - part.start for part in share.slices])
        return [
            _result(part, rows, share.session.last, (_us(started - part.waiting.since), _us(seconds)))
            for part, rows in zip(share.slices, outputs, strict=True)
        ]


def _result(part: Slice, rows: torch.Tensor, last: bool, spent: HopTime) -> tuple[Step | Output, memoryview]:
    """What a slice sends on: as a step of its own to the next hop, or as an output to the gateway."""
    step = part.waiting.step
    whole = part.end == step.count
    returns = step.returns if whole or step.returns == "all" else "none"
    hops = (*step.hops, spent)[-HOPS_LIMIT:]
    position, count = step.position + part.start, part.end - part.start
    if not last:
        specs, data = encode_hidden(rows)
        changes = {"position": position, "count": count, "returns": returns, "tensors": specs, "hops": hops}
        return msgspec.structs.replace(step, **changes), data
    wanted = {"none": rows[:0], "last": rows[-1:], "all": rows}[returns]
    specs, data = encode_hidden(wanted)
    output = Output(
        session=step.session,
        epoch=step.epoch,
        round=step.round,
        position=position + count - len(wanted),
        count=len(wanted),
        tensors=specs,
        hops=hops,
    )
    return output, data


def _us(seconds: float) -> int:
    return max(0, round(seconds * 1e6))
