"""A `.gguf` file becomes a folder of safetensors, once: under a lock, and renamed into place when whole."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryFile
from typing import TextIO

from shared.checkpoint.digest import DigestMemory
from shared.checkpoint.marker import GgufOrigin, read_marker, write_marker
from shared.checkpoint.progress import Advance, show_progress
from shared.checkpoint.storage import exclusive, require_room, writing
from shared.errors import CheckpointError

CONVERTER = "1"
"""Part of the fingerprint: raise it when the same `.gguf` file would give other weights."""

POLL_S = 0.25
_SOURCES = Path(__file__).parents[2]


def convert_gguf(path: Path, destination: Path, memory: DigestMemory) -> Path:
    """The folder that holds the model of a `.gguf` file in bfloat16: `destination`, or beside it if that is taken.

    Does nothing when the folder is there. Raises CheckpointError, DiskFull.
    """
    with show_progress(f"Reading {path.name}"):
        origin = GgufOrigin(path.name, memory.sha256(path), CONVERTER)
    with exclusive(destination):
        folder = _free_folder(destination, origin)
        if not folder.exists():
            _convert(path, folder, origin)
    return folder


def _free_folder(destination: Path, origin: GgufOrigin) -> Path:
    if not destination.exists() or _holds(destination, origin):
        return destination
    return destination.with_name(f"{destination.name}-{origin.sha256[:8]}")


def _holds(folder: Path, origin: GgufOrigin) -> bool:
    marker = read_marker(folder)
    return isinstance(marker, GgufOrigin) and (marker.sha256, marker.converter) == (origin.sha256, origin.converter)


def _convert(path: Path, folder: Path, origin: GgufOrigin) -> None:
    require_room(folder, _converted_bytes(path), f"converting {path.name}")
    partial = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)  # of a conversion that was cut off
    try:
        with writing(folder):
            partial.mkdir(parents=True)
            _run_conversion(path, partial)
            write_marker(partial, origin)
            partial.rename(folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _converted_bytes(path: Path) -> int:
    from gguf import GGUFReader  # here: it costs every start 0.1 s that few need

    try:
        tensors = GGUFReader(path).tensors
    except (ValueError, IndexError, KeyError, UnicodeDecodeError) as error:
        raise CheckpointError(f"{path} is not a whole GGUF file ({error}): fetch it again") from error
    return sum(2 * int(tensor.n_elements) for tensor in tensors)


def _run_conversion(path: Path, folder: Path) -> None:
    """In a process of its own: it takes twice the model's memory, and transformers talks a lot meanwhile.

    The pipe to it says nothing; its end tells the child that this process is gone, however it went.
    """
    command = [sys.executable, "-m", "shared.checkpoint.conversion", str(path), str(folder)]
    search_path = os.pathsep.join(filter(None, (str(_SOURCES), os.environ.get("PYTHONPATH"))))
    environment = {**os.environ, "PYTHONPATH": search_path}
    with TemporaryFile("w+", errors="replace") as output, show_progress(f"Converting {path.name}") as advance:
        with subprocess.Popen(command, env=environment, stdin=subprocess.PIPE, stdout=output, stderr=output) as process:
            try:
                status = _wait(process, advance)
            finally:
                process.kill()
        if status != 0:
            raise CheckpointError(f"{path} could not be converted: {_last_line(output)}")


def _wait(process: subprocess.Popen[bytes], advance: Advance) -> int:
    while True:
        try:
            return process.wait(POLL_S)
        except subprocess.TimeoutExpired:
            advance(0)


def _last_line(output: TextIO) -> str:
    output.seek(0)
    lines = output.read().split("\n")
    return next((line.strip() for line in reversed(lines) if line.strip()), "it ended without a word")
