"""What a safetensors file says of its tensors before their bytes begin."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from shared.errors import CheckpointError

LONGEST_HEADER_BYTES = 100_000_000  # the format's own limit


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """A tensor in a file: its dtype as the format spells it (`BF16`), and where its bytes lie in the file."""

    dtype: str
    shape: tuple[int, ...]
    start: int
    end: int

    def bytes_as(self, element_size: int | None) -> int:
        """Bytes in memory when floats take `element_size` bytes each; as stored for None, and for what is no float."""
        if element_size is None or not self.dtype.startswith(("F", "BF")):
            return self.end - self.start
        return math.prod(self.shape) * element_size


Header = dict[str, StoredTensor]


def read_header(path: Path) -> Header:
    """The tensors of a file by name. Raises CheckpointError for a file that is truncated or malformed."""
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            text = file.read(length) if 0 < length <= LONGEST_HEADER_BYTES else b""
            size = path.stat().st_size
    except FileNotFoundError as error:
        raise CheckpointError(f"{path.parent} lacks the weights file {path.name}: fetch the model again") from error
    try:
        header = parse_header(json.loads(text), 8 + length)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise CheckpointError(f"{path} is not a whole safetensors file: fetch it again") from error
    if any(tensor.end > size for tensor in header.values()):
        raise CheckpointError(f"{path} is truncated at {size:,} bytes: fetch it again")
    return header


def parse_header(fields: dict[str, Any], data_start: int) -> Header:
    """Checks every entry. Raises ValueError, TypeError, KeyError or AttributeError where the format is not kept."""
    return {name: _parse_tensor(entry, data_start) for name, entry in fields.items() if name != "__metadata__"}


def _parse_tensor(entry: dict[str, Any], data_start: int) -> StoredTensor:
    start, end = (int(offset) for offset in entry["data_offsets"])
    shape = tuple(int(size) for size in entry["shape"])
    if not 0 <= start <= end or min(shape, default=0) < 0:
        raise ValueError(f"offsets {start}:{end}, shape {shape}")
    return StoredTensor(str(entry["dtype"]), shape, data_start + start, data_start + end)
