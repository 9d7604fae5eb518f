"""Hashes of files, computed once: remembered under each file's path, size and time of change."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from shared.checkpoint.storage import replace_text, writing

CHUNK_BYTES = 1 << 20  # plain reads: mapped pages would count as memory of the process


@dataclass(frozen=True, slots=True)
class DigestMemory:
    """A folder of digests, one small file each. Entries are named after what they depend on, so none is ever wrong."""

    folder: Path

    def sha256(self, path: Path) -> str:
        """SHA-256 of a file in hex."""
        return self.remembered("sha256", [path], lambda: _hash_file(path, hashlib.sha256()))

    def git_sha1(self, path: Path) -> str:
        """SHA-1 of a file as git names its content."""
        start = hashlib.sha1(b"blob %d\0" % path.stat().st_size, usedforsecurity=False)
        return self.remembered("git", [path], lambda: _hash_file(path, start))

    def remembered(self, subject: str, files: Iterable[Path], compute: Callable[[], str]) -> str:
        """What `compute` returned for this subject the last time that these files were as they are now."""
        entry = self.folder / _entry_name(subject, files)
        known = entry.read_text(encoding="ascii") if entry.exists() else ""
        if known:  # a machine that lost its power may leave an entry empty
            return known
        digest = compute()
        with writing(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            replace_text(entry, digest)
        return digest


def read_chunks(file: BinaryIO, count: int) -> Iterator[bytes]:
    """The next `count` bytes of a file, or fewer at its end, a chunk at a time."""
    while count > 0 and (chunk := file.read(min(CHUNK_BYTES, count))):
        count -= len(chunk)
        yield chunk


def _hash_file(path: Path, digest: hashlib._Hash) -> str:  # pyright: ignore[reportPrivateUsage]
    with path.open("rb") as file:
        for chunk in read_chunks(file, path.stat().st_size):
            digest.update(chunk)
    return digest.hexdigest()


def _entry_name(subject: str, files: Iterable[Path]) -> str:
    state = [(str(path.resolve()), path.stat().st_size, path.stat().st_mtime_ns) for path in files]
    return hashlib.sha256(json.dumps([subject, state]).encode()).hexdigest()[:40]
