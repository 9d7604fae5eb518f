"""Named tensors to bytes and back, with every length checked. Knows nothing of links."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch

from shared.errors import FrameError, HopFailed
from shared.types import PeerId
from shared.wire import PAYLOAD_LIMIT, Output, Step, TensorSpec

WIDEST_BYTES = 4
"""Of one value on the wire, whatever the dtypes of the hops."""

MESSAGE_BYTES = 4096
"""Of the frame of a step or an output, without its tensor."""

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
NAMES = {dtype: name for name, dtype in DTYPES.items()}


class Encoded(NamedTuple):
    """Tensors as they travel in a frame: their specs, and their bytes one after the other."""

    specs: tuple[TensorSpec, ...]
    data: memoryview


def encode_hidden(hidden: torch.Tensor) -> Encoded:
    """Hidden states (tokens, hidden) as the tensor `hidden`, bytes in the machine's order, little-endian."""
    flat = hidden.detach().cpu().contiguous()
    spec = TensorSpec(name="hidden", dtype=NAMES[flat.dtype], shape=tuple(flat.shape))  # pyright: ignore[reportArgumentType]
    return Encoded((spec,), flat.reshape(-1).view(torch.uint8).numpy().data if flat.numel() else memoryview(b""))


def check_tensor(specs: tuple[TensorSpec, ...], size: int, shape: tuple[int, ...]) -> torch.dtype:
    """The dtype of a frame's one tensor `hidden`. Raises FrameError unless it has this shape and `size` bytes."""
    if len(specs) != 1 or specs[0].name != "hidden":
        raise FrameError(f"expected one tensor named hidden, not {[spec.name for spec in specs]}")
    spec = specs[0]
    if spec.shape != shape:
        raise FrameError(f"hidden states have shape {spec.shape} where {shape} is expected")
    dtype = DTYPES[spec.dtype]
    if math.prod(shape) * dtype.itemsize != size:
        raise FrameError(f"{size} bytes cannot be a {spec.dtype} tensor of shape {shape}")
    return dtype


def check_step(step: Step, payload: memoryview) -> None:
    """Raises FrameError for bytes that are not what the step says, or whose result would not fit into a frame."""
    _check_message(payload)
    width = step.tensors[0].shape[-1] if step.tensors and step.tensors[0].shape else 0
    check_tensor(step.tensors, len(payload), (step.count, width))
    if not width or step.count * width * WIDEST_BYTES > PAYLOAD_LIMIT:
        raise FrameError(f"a step of {step.count} tokens, {width} numbers each, has no place in one frame")


def check_output(output: Output, payload: memoryview, width: int) -> None:
    """Raises FrameError for bytes that are not the rows, `width` numbers each, that the output says."""
    _check_message(payload)
    check_tensor(output.tensors, len(payload), (output.count, width))


def _check_message(payload: memoryview) -> None:
    """What lies around a tensor stays in memory with it, and no window counts it: it is bounded here."""
    if memoryview(payload.obj).nbytes - len(payload) > MESSAGE_BYTES:
        raise FrameError(f"the message has more than {MESSAGE_BYTES} bytes")


def decode_hidden(encoded: Encoded, shape: tuple[int, ...]) -> torch.Tensor:
    """The one tensor `hidden` of a frame, as a view of its payload. Raises FrameError unless it has this shape."""
    dtype = check_tensor(encoded.specs, len(encoded.data), shape)
    if not encoded.data:
        return torch.empty(shape, dtype=dtype)
    return torch.frombuffer(encoded.data, dtype=dtype).reshape(shape)


def check_finite(hidden: torch.Tensor, peer: PeerId) -> None:
    """Raises HopFailed naming `peer`, which made these hidden states, if any is NaN or infinite."""
    if not bool(torch.isfinite(hidden).all()):
        raise HopFailed(peer, "not_finite", f"the hidden states that {peer} returned are not finite")
