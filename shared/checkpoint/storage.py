"""What several processes on one disk need: one at a time, whole or not at all, and room before the work begins."""

from __future__ import annotations

import errno
import logging
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import mkstemp

from filelock import FileLock, Timeout

from shared.errors import CheckpointError, DiskFull

logger = logging.getLogger(__name__)

SPARE_BYTES = 64_000_000  # never fill a disk to the brim


@contextmanager
def exclusive(target: Path) -> Iterator[None]:
    """Holds the lock for `target` among all processes; the lock ends with its process, however that ends."""
    name = target.name.lstrip(".")
    lock = FileLock(target.with_name(f".{name}.lock"))
    with writing(target.parent):
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            logger.info("waiting for another process that is preparing %s", name)
            lock.acquire()
    try:
        yield
    finally:
        lock.release()


def require_room(folder: Path, needed_bytes: int, purpose: str) -> None:
    """Raises DiskFull unless the disk of `folder` (which need not exist yet) has room for so many bytes more."""
    existing = next(path for path in (folder, *folder.parents) if path.exists())
    free = shutil.disk_usage(existing).free
    if needed_bytes + SPARE_BYTES > free:
        raise DiskFull(
            f"{purpose} needs {_megabytes(needed_bytes + SPARE_BYTES)} in {folder}, and {_megabytes(free)} are free: "
            "make room, or pass --cache-dir with a folder on another disk"
        )


@contextmanager
def writing(folder: Path) -> Iterator[None]:
    """Turns what the system says when a write to `folder` fails into DiskFull or CheckpointError."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise DiskFull(f"the disk of {folder} is full: make room, or pass --cache-dir") from error
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise CheckpointError(f"{folder} cannot be written: change its rights, or pass --cache-dir") from error
        raise


def replace_text(path: Path, text: str) -> None:
    """Writes a file whole or not at all, whoever else writes it at the same time."""
    handle, partial = mkstemp(dir=path.parent, prefix=f".{path.name}.")
    with os.fdopen(handle, "w", encoding="utf-8") as file:
        file.write(text)
    os.replace(partial, path)


def _megabytes(count: int) -> str:
    return f"{count / 1e6:,.0f} MB"
