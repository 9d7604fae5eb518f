"""Whatever is wrong with a local MODEL is an error that says what to do."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from shared.checkpoint import open_checkpoint
from shared.errors import CheckpointError, CorollaError, ModelNotFound, UnsupportedFamily, UsageError
from shared.types import BlockRange


def remove_weights(folder: Path) -> None:
    for path in [*folder.glob("*.safetensors"), folder / "model.safetensors.index.json"]:
        path.unlink()


def only_pickles(folder: Path) -> None:
    remove_weights(folder)
    (folder / "pytorch_model.bin").write_bytes(b"pickle")


def only_gguf(folder: Path) -> None:
    (folder / "config.json").unlink()
    (folder / "weights.gguf").write_bytes(b"GGUF")


def remove_a_shard(folder: Path) -> None:
    sorted(folder.glob("*.safetensors"))[0].unlink()


def other_family(folder: Path) -> None:
    (folder / "config.json").write_text(json.dumps({"model_type": "mamba", "num_hidden_layers": 2}))


def escaping_index(folder: Path) -> None:
    index = {"weight_map": {"model.layers.0.x": "../../secret.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


@pytest.mark.parametrize(
    ("damage", "error", "words"),
    [
        (lambda folder: (folder / "config.json").unlink(), ModelNotFound, "no config.json"),
        (lambda folder: (folder / "config.json").write_text("{"), CheckpointError, "not JSON"),
        (lambda folder: (folder / "config.json").write_text("[]"), CheckpointError, "not a model's configuration"),
        (lambda folder: (folder / "model.safetensors.index.json").write_text("[]"), CheckpointError, "not an index"),
        (remove_weights, ModelNotFound, "no weights"),
        (only_pickles, CheckpointError, "safetensors only"),
        (only_gguf, ModelNotFound, "weights.gguf"),
        (remove_a_shard, CheckpointError, "lacks the file"),
        (other_family, UnsupportedFamily, "mamba"),
        (escaping_index, CheckpointError, "files elsewhere"),
    ],
)
def test_a_folder_that_is_no_model(
    damage: Callable[[Path], object], error: type[CorollaError], words: str, tiny_copy: Path, tmp_path: Path
) -> None:
    damage(tiny_copy)
    with pytest.raises(error, match=words):
        open_checkpoint(str(tiny_copy), name=None, cache_dir=tmp_path / "cache")


@pytest.mark.parametrize(
    "content", [b"", b"\x10", b"\xff" * 64, (2).to_bytes(8, "little") + b"[]", (9).to_bytes(8, "little") + b'{"a": {}}']
)
def test_a_corrupt_shard(content: bytes, tiny_copy: Path, tmp_path: Path) -> None:
    for shard in tiny_copy.glob("*.safetensors"):
        shard.write_bytes(content)
    checkpoint = open_checkpoint(str(tiny_copy), name=None, cache_dir=tmp_path / "cache")
    with pytest.raises(CheckpointError, match="not a whole safetensors file"), checkpoint.prepare(BlockRange(0, 1)):
        pass


def test_a_truncated_shard(tiny_copy: Path, tmp_path: Path) -> None:
    for shard in tiny_copy.glob("*.safetensors"):
        shard.write_bytes(shard.read_bytes()[:-1])
    checkpoint = open_checkpoint(str(tiny_copy), name=None, cache_dir=tmp_path / "cache")
    with pytest.raises(CheckpointError, match="truncated"), checkpoint.prepare("ends"):
        pass


@pytest.mark.parametrize("model", ["nowhere", "./no/where", "/no/where", "a/../b", "a/b/c", "org/name@../x", ""])
def test_what_is_neither_directory_nor_hub_id(model: str, tmp_path: Path) -> None:
    with pytest.raises(ModelNotFound, match="no directory"):
        open_checkpoint(model or str(tmp_path / "empty"), name=None, cache_dir=tmp_path)


@pytest.mark.parametrize("name", ["", "../x", "a b", "a//b", "x" * 200])
def test_a_name_that_no_url_can_hold(name: str, tiny_llama: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--model-name"):
        open_checkpoint(str(tiny_llama), name=name, cache_dir=tmp_path)


def test_a_gguf_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFound, match="no file"):
        open_checkpoint(str(tmp_path / "x.gguf"), name=None, cache_dir=tmp_path)
