"""A transformers model with parts taken out, running its family's own forward over what is left.

A subclass whose `__init__` drops parts is what `from_pretrained` builds on the meta device, so absent parts never take
memory and checkpoint names, renamings (fused experts) and dtypes stay transformers' own. Only the tensors asked for are
read. Knows nothing of caches, peers or gateways; code from a checkpoint is never run.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from transformers import AutoConfig, PreTrainedConfig, PreTrainedModel
from transformers.utils.logging import disable_progress_bar

from shared.errors import CheckpointError, ModelNotFound
from shared.families import check_family
from shared.freed_memory import return_freed_memory

INDEX_FILE = "model.safetensors.index.json"
SINGLE_FILE = "model.safetensors"

disable_progress_bar()  # its bars count tensors and break lines of a log; the programs show progress in their own way


def read_config(directory: Path) -> PreTrainedConfig:
    """The configuration of a model that can be split. Raises UnsupportedFamily, ModelNotFound or CheckpointError."""
    try:
        check_family(json.loads((directory / "config.json").read_bytes()))
        return AutoConfig.from_pretrained(directory, local_files_only=True, trust_remote_code=False)
    except FileNotFoundError as error:
        raise ModelNotFound(f"{directory} holds no config.json: it is not a model's folder") from error
    except (ValueError, KeyError, TypeError, AttributeError, OSError) as error:  # whatever a malformed file provokes
        raise CheckpointError(f"{directory / 'config.json'} cannot be read: {error}") from error


def load_partial(
    model_class: type[PreTrainedModel],
    config: PreTrainedConfig,
    directory: Path,
    *,
    wanted: Callable[[str], bool],
    remove: Callable[[PreTrainedModel], None],
    dtype: torch.dtype,
    device: torch.device,
) -> PreTrainedModel:
    """Loads what `remove` leaves of the model from the tensors whose checkpoint name is `wanted`; nothing else is read.

    The weights are the process's own memory, not the mapped file. Raises CheckpointError when a tensor is missing.
    """
    tensors = _lazy_tensors(directory, wanted)
    try:
        loaded: Any = _without(model_class, remove).from_pretrained(
            None,
            config=config,
            state_dict=tensors,
            dtype=dtype,
            device_map=None if device.type == "cpu" else {"": device},
            output_loading_info=True,
        )
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # a configuration from anywhere meets the family's own code here
        raise CheckpointError(f"{directory} has a config.json that its family cannot use: {error!r}") from error
    model, report = loaded
    if missing := sorted(report["missing_keys"]):
        raise CheckpointError(f"{directory} lacks {len(missing)} tensors of this part, such as {missing[0]}")
    if report["mismatched_keys"]:
        raise CheckpointError(f"{directory} has tensors whose shapes do not fit its config.json")
    return_freed_memory()
    return model.requires_grad_(False).eval()


def _without(model_class: type[PreTrainedModel], remove: Callable[[PreTrainedModel], None]) -> type[PreTrainedModel]:
    def __init__(self: PreTrainedModel, config: PreTrainedConfig, *args: Any, **kwargs: Any) -> None:
        model_class.__init__(self, config, *args, **kwargs)
        remove(self)
        emptied = {rf"^{re.escape(name)}$" for name, weight in self.named_parameters() if not weight.numel()}
        self._keys_to_ignore_on_load_missing = {*(self._keys_to_ignore_on_load_missing or ()), *emptied}

    body = {"__init__": __init__, "__module__": model_class.__module__}
    return type(model_class.__name__, (model_class,), body)


def stored_names(directory: Path, wanted: Callable[[str], bool]) -> list[str]:
    """Checkpoint names of the tensors that are wanted. Raises CheckpointError."""
    return list(_holders(directory, wanted))


def map_tensor(directory: Path, name: str) -> torch.Tensor:
    """A tensor over the mapped file, in the dtype that is stored: read where it is touched. Raises CheckpointError.

    It outlives `directory`, if that is a folder of links.
    """
    return _holders(directory, name.__eq__, backend="mmap")[name].get_tensor(name)


def _lazy_tensors(directory: Path, wanted: Callable[[str], bool]) -> dict[str, Any]:
    """Checkpoint name to a slice that reads its tensor when transformers asks for it."""
    return {name: file.get_slice(name) for name, file in _holders(directory, wanted).items()}


def _holders(directory: Path, wanted: Callable[[str], bool], backend: str = "pread") -> dict[str, Any]:
    """Checkpoint name to the opened file that holds it."""
    holders: dict[str, Any] = {}
    for file, names in _files_of(directory, wanted).items():
        try:
            opened = safe_open(directory / file, framework="pt", backend=backend)
            holders |= dict.fromkeys(names or filter(wanted, opened.keys()), opened)
        except (SafetensorError, OSError) as error:
            raise CheckpointError(f"{directory / file} cannot be read: {error}") from error
    return holders


def _files_of(directory: Path, wanted: Callable[[str], bool]) -> Mapping[str, list[str]]:
    """File name to the wanted tensors in it; an empty list where only the file itself can tell."""
    index = directory / INDEX_FILE
    if not index.exists():
        return {SINGLE_FILE: []}
    try:
        weight_map: dict[str, str] = json.loads(index.read_bytes())["weight_map"]
    except (ValueError, KeyError, TypeError, OSError) as error:
        raise CheckpointError(f"{index} is not an index of safetensors files") from error
    files: dict[str, list[str]] = {}
    for name, file in weight_map.items():
        if Path(file).name != file:
            raise CheckpointError(f"{index} names {file!r}, which is outside the model's folder")
        if wanted(name):
            files.setdefault(file, []).append(name)
    return files
