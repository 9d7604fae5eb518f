"""What a node computes on: device, dtype, threads and free memory."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import psutil
import torch

from shared.errors import UsageError
from shared.tensors import DTYPES

_CGROUP = Path("/sys/fs/cgroup")


def choose_device(name: str) -> torch.device:
    """`auto` is the first GPU, else the CPU. Raises UsageError for a device that this machine lacks."""
    if name == "auto":
        return torch.device("cuda", 0) if torch.cuda.is_available() else torch.device("cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise UsageError(f"--device {name}: say auto, cpu or cuda:N") from error
    if device.type not in ("cpu", "cuda"):
        raise UsageError(f"--device {name}: say auto, cpu or cuda:N")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise UsageError(
            f"--device {name}: this machine has {torch.cuda.device_count()} CUDA devices; say --device cpu"
        )
    return device


def choose_dtype(name: str, device: torch.device, config: Mapping[str, Any]) -> torch.dtype:
    """`auto` is float32 on a CPU and, on CUDA, the dtype that the model's configuration names."""
    if name != "auto":
        return DTYPES[name]
    stored = str(config.get("dtype") or config.get("torch_dtype"))
    return torch.float32 if device.type == "cpu" else DTYPES.get(stored, torch.bfloat16)


def free_memory(device: torch.device) -> int:
    """Bytes that may be taken: of the device, or on a CPU the lesser of what the machine and the cgroup leave."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    return min(psutil.virtual_memory().available, _cgroup_free())


def whole_memory(device: torch.device) -> int:
    """Bytes that the device has, used or not: on a CPU the lesser of the machine's and the cgroup's."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[1]
    try:
        limit = int((_CGROUP / "memory.max").read_text())
    except (OSError, ValueError):  # no cgroup v2, or no limit ("max")
        limit = psutil.virtual_memory().total
    return min(psutil.virtual_memory().total, limit)


def _cgroup_free() -> int:
    try:
        limit = int((_CGROUP / "memory.max").read_text())
        used = int((_CGROUP / "memory.current").read_text())
        counts = dict(line.split() for line in (_CGROUP / "memory.stat").read_text().splitlines())
        return limit - used + int(counts.get("inactive_file", 0))  # what the kernel can drop is free
    except (OSError, ValueError):  # no cgroup v2, or no limit ("max")
        return psutil.virtual_memory().total
