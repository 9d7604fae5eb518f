"""A model's configuration and weights, of which a process fetches and loads only its part."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from shared.checkpoint.files import CONFIG, GENERATION_CONFIG, INDEX, TOKENIZER_FILES, ModelFiles
from shared.checkpoint.fingerprint import fingerprint_files, fingerprint_gguf
from shared.checkpoint.marker import GgufOrigin, read_marker
from shared.checkpoint.progress import show_progress
from shared.checkpoint.safetensors_header import Header
from shared.checkpoint.tensor_names import Part, block_of, is_of
from shared.checkpoint.weights import WeightMap, block_digest, read_weight_map
from shared.errors import CheckpointError, ModelNotFound, UsageError
from shared.families import check_family
from shared.types import BlockRange, Fingerprint

_DEPTH = ("num_hidden_layers", "n_layer", "n_layers", "num_layers")
_WIDTH = ("hidden_size", "n_embd", "n_embed", "d_model")


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """A model that can be split. Its methods read files and may fetch them: call them beside an event loop."""

    id: str
    fingerprint: Fingerprint
    config: Mapping[str, Any] = field(repr=False)
    family: str
    blocks: int
    hidden_size: int
    files: ModelFiles = field(repr=False)
    weights: WeightMap = field(repr=False)

    @property
    def directory(self) -> Path:
        """The model's folder; of a hub's model it holds only the files that were needed so far."""
        return self.files.directory

    @contextmanager
    def prepare(self, part: Part) -> Iterator[Path]:
        """A folder for the time of loading: configuration, an index of the part's tensors, links to their shards.

        Fetches what is missing. For the ends it has the tokenizer too. Raises CheckpointError, UsageError.
        """
        tensors = self._tensors(part)
        shards = set(tensors.values())
        companions = {CONFIG, GENERATION_CONFIG, *(TOKENIZER_FILES if part == "ends" else ())}
        names = shards | companions.intersection(self.files.names())
        self.files.fetch(names)
        self._stored(tensors)  # before anything is loaded: a shard may be cut off
        with TemporaryDirectory(prefix="corolla-part-") as directory:
            for name in names:
                (Path(directory) / name).symlink_to((self.directory / name).resolve())
            (Path(directory) / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": tensors}))
            yield Path(directory)

    def bytes_of(self, part: Part, element_size: int | None = None) -> int:
        """Bytes that the part's tensors take in memory, floats at `element_size` bytes each; None: as they are stored.

        Of what is still on a hub only the shards' headers are read.
        """
        tied = self.config.get("tie_word_embeddings") is True
        return sum(
            tensor.bytes_as(element_size)
            for name, tensor in self._stored(self._tensors(part)).items()
            if not (tied and name.endswith("lm_head.weight"))  # loaded as the embedding itself
        )

    def digests(self, blocks: BlockRange) -> tuple[bytes, ...]:
        """For each block 16 bytes of a hash over its tensors as they are stored: equal for equal weights alone."""
        tensors = self._tensors(blocks)
        self.files.fetch(set(tensors.values()))
        self._stored(tensors)
        of_block: dict[int | None, dict[str, str]] = {}
        for name, shard in tensors.items():
            of_block.setdefault(block_of(name), {})[name] = shard
        with show_progress(f"Hashing blocks {blocks}"):
            return tuple(block_digest(self.files, of_block[block]) for block in range(blocks.start, blocks.end))

    def _tensors(self, part: Part) -> dict[str, str]:
        """The part's tensor names and their shards. Raises UsageError for a range outside the model."""
        if isinstance(part, BlockRange) and part.end > self.blocks:
            raise UsageError(f"{self.id} has the blocks 0:{self.blocks}: {part} reaches past them")
        tensors = {name: shard for name, shard in self.weights.items() if is_of(part, name)}
        expected = range(part.start, part.end) if isinstance(part, BlockRange) else (None,)
        if missing := set(expected) - {block_of(name) for name in tensors}:
            raise CheckpointError(f"{self.directory} holds no tensors of {_named(missing)}: fetch the model again")
        return tensors

    def _stored(self, tensors: WeightMap) -> Header:
        """Where the tensors lie in their shards. Raises CheckpointError for a shard that is cut off or lacks one."""
        headers = {shard: self.files.header(shard) for shard in set(tensors.values())}
        for name, shard in tensors.items():
            if name not in headers[shard]:
                raise CheckpointError(f"{self.directory / shard} lacks the tensor {name}: fetch the model again")
        return {name: headers[shard][name] for name, shard in tensors.items()}


def read_checkpoint(model_id: str, files: ModelFiles) -> Checkpoint:
    """Reads configuration and index, and takes the fingerprint. Raises UnsupportedFamily, CheckpointError."""
    config = _read_config(files)
    check_family(config)
    weights = read_weight_map(files)
    return Checkpoint(
        id=model_id,
        fingerprint=_fingerprint(files, config, weights),
        config=config,
        family=config["model_type"],
        blocks=_dimension(config, _DEPTH),
        hidden_size=_dimension(config, _WIDTH),
        files=files,
        weights=weights,
    )


def _read_config(files: ModelFiles) -> dict[str, Any]:
    if CONFIG not in files.names():
        raise ModelNotFound(f"{files.directory} holds no {CONFIG}: it is not a model's folder{_gguf_hint(files)}")
    files.fetch([CONFIG])
    try:
        config = json.loads((files.directory / CONFIG).read_bytes())
    except ValueError as error:
        raise CheckpointError(f"{files.directory / CONFIG} is not JSON: fetch it again") from error
    if not isinstance(config, dict):
        raise CheckpointError(f"{files.directory / CONFIG} is not a model's configuration: fetch it again")
    return config


def _gguf_hint(files: ModelFiles) -> str:
    found = next((name for name in sorted(files.names()) if name.endswith(".gguf")), None)
    return f"; fetch its {found} and pass that file itself, --model {found}" if found else ""


def _fingerprint(files: ModelFiles, config: Mapping[str, Any], weights: WeightMap) -> Fingerprint:
    origin = read_marker(files.directory)
    if isinstance(origin, GgufOrigin):
        return fingerprint_gguf(origin)
    return fingerprint_files(files, config, set(weights.values()))


def _dimension(config: Mapping[str, Any], names: tuple[str, ...]) -> int:
    value = next((config[name] for name in names if name in config), None)
    if not isinstance(value, int) or not 0 < value < 1_000_000:
        raise CheckpointError(f"{CONFIG} says no {names[0]}: fetch the model again")
    return value


def _named(blocks: set[int | None]) -> str:
    numbers = sorted(block for block in blocks if block is not None)
    return f"block {numbers[0]}" if numbers else "embedding, norm and head"
