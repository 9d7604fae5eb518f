"""MODEL, as a user writes it: a local directory, a `.gguf` file, or a hub id."""

from __future__ import annotations

import logging
import re
from pathlib import Path

from huggingface_hub import HfApi

from shared.checkpoint.checkpoint import Checkpoint, read_checkpoint
from shared.checkpoint.files import LocalFiles, ModelFiles
from shared.checkpoint.folders import digest_memory, model_folder
from shared.checkpoint.gguf import convert_gguf
from shared.checkpoint.hub import open_hub
from shared.checkpoint.marker import GgufOrigin, read_marker
from shared.errors import ModelNotFound, UsageError

logger = logging.getLogger(__name__)

_HUB_ID = re.compile(r"(?P<repository>\w[\w.-]*/\w[\w.-]*)(?:@(?P<revision>\w[\w./-]*))?")
_MODEL_ID = re.compile(r"\w[\w.@+-]*(?:/\w[\w.@+-]*)*")
LONGEST_ID = 128


def open_checkpoint(
    model: str, *, name: str | None, cache_dir: Path, offline: bool = False, api: HfApi | None = None
) -> Checkpoint:
    """Finds a model and reads what it is; weights are fetched later, by part. `name` is `--model-name`.

    Takes long where a GGUF file is converted or local shards are hashed for the first time: call it beside an event
    loop. Raises CheckpointError or UsageError with a sentence that says what to do.
    """
    path = Path(model).expanduser()
    if path.is_dir():
        return read_checkpoint(_local_id(name, path.resolve().name), LocalFiles(path, digest_memory(cache_dir)))
    if path.suffix.lower() == ".gguf":
        return _open_gguf(path, _local_id(name, path.stem), cache_dir)
    hub_id = _HUB_ID.fullmatch(model)
    if hub_id is None or ".." in model:
        raise ModelNotFound(f"there is no directory {model}, and it is no hub id (ORG/NAME or ORG/NAME@REVISION)")
    repository, revision = hub_id["repository"], hub_id["revision"]
    return read_checkpoint(repository, _hub_files(repository, revision, cache_dir, api or HfApi(), offline))


def _open_gguf(path: Path, model_id: str, cache_dir: Path) -> Checkpoint:
    if not path.is_file():
        raise ModelNotFound(f"there is no file {path}")
    memory = digest_memory(cache_dir)
    folder = convert_gguf(path, model_folder(cache_dir, model_id), memory)
    return read_checkpoint(model_id, LocalFiles(folder, memory))


def _hub_files(repository: str, revision: str | None, cache_dir: Path, api: HfApi, offline: bool) -> ModelFiles:
    folder = model_folder(cache_dir, f"{repository}@{revision.replace('/', '--')}" if revision else repository)
    memory = digest_memory(cache_dir)
    origin = read_marker(folder)
    if isinstance(origin, GgufOrigin):
        logger.info("%s: using the copy in the cache, which was converted from %s", repository, origin.file)
        return LocalFiles(folder, memory)
    return open_hub(repository, revision, folder, memory, api, offline)


def _local_id(name: str | None, fallback: str) -> str:
    """The public id of a model that is on no hub. Raises UsageError for a name that cannot stand in a URL."""
    if name is None:
        return re.sub(r"[^\w.@+-]", "-", fallback).lstrip(".-@+") or "model"
    if len(name) > LONGEST_ID or not _MODEL_ID.fullmatch(name):
        raise UsageError(f"--model-name {name!r}: a model's name has letters, digits and ._-@+, and / between parts")
    return name
