"""The files of one model, wherever they come from: a folder on this machine, or a hub (hub.py)."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from shared.checkpoint.digest import DigestMemory
from shared.checkpoint.progress import show_progress
from shared.checkpoint.safetensors_header import Header, read_header
from shared.errors import CheckpointError

CONFIG = "config.json"
GENERATION_CONFIG = "generation_config.json"
INDEX = "model.safetensors.index.json"
SINGLE_SHARD = "model.safetensors"
TOKENIZER_FILES = (
    "added_tokens.json",
    "chat_template.jinja",
    "chat_template.json",
    "merges.txt",
    "sentencepiece.bpe.model",
    "special_tokens_map.json",
    "spiece.model",
    "tekken.json",
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "vocab.json",
    "vocab.txt",
)
"""What a tokenizer may consist of: all of them that a model has are part of its fingerprint."""


class ModelFiles(Protocol):
    """Files by their plain names. Each method raises CheckpointError, or a class under it, with what to do."""

    @property
    def directory(self) -> Path:
        """Where fetched files lie."""
        ...

    @property
    def memory(self) -> DigestMemory: ...

    def names(self) -> Collection[str]:
        """All files that the model has, fetched or not."""
        ...

    def fetch(self, names: Collection[str]) -> None:
        """After this the files are in `directory`, whole."""
        ...

    def sha256(self, name: str) -> str:
        """A file's hash in hex, without its bytes where the hub tells it."""
        ...

    def header(self, shard: str) -> Header:
        """What tensors a shard holds, without the rest of its bytes where it lies on a hub."""
        ...


@dataclass(frozen=True, slots=True)
class LocalFiles:
    """A folder that somebody put on this machine, or that a GGUF file was converted into."""

    directory: Path
    memory: DigestMemory

    def names(self) -> Collection[str]:
        return {path.name for path in self.directory.iterdir()}

    def fetch(self, names: Collection[str]) -> None:
        for name in names:
            if not (self.directory / name).is_file():
                raise CheckpointError(f"{self.directory} lacks the file {name}: fetch the model again")

    def sha256(self, name: str) -> str:
        self.fetch([name])
        with show_progress(f"Hashing {name}"):
            return self.memory.sha256(self.directory / name)

    def header(self, shard: str) -> Header:
        return read_header(self.directory / shard)
