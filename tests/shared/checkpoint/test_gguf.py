"""A GGUF file becomes a model's folder, once."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from shared.checkpoint import Checkpoint, open_checkpoint
from shared.errors import CheckpointError, DiskFull
from shared.types import BlockRange
from tests.shared.checkpoint.tiny_gguf import END_ID, START_ID, write_tiny_gguf


def open_gguf(path: Path, cache: Path, name: str | None = None) -> Checkpoint:
    return open_checkpoint(str(path), name=name, cache_dir=cache)


def visible(folder: Path) -> set[str]:
    return {path.name for path in folder.glob("*") if not path.name.endswith(".lock")}


@pytest.fixture(scope="module")
def converted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache in which `tiny.gguf`, seed 0, is converted."""
    root = tmp_path_factory.mktemp("gguf")
    write_tiny_gguf(root / "tiny.gguf")
    open_gguf(root / "tiny.gguf", root)
    return root


def test_the_folder_holds_the_files_weights_and_tokenizer(converted: Path, tmp_path: Path) -> None:
    embedding = write_tiny_gguf(tmp_path / "same.gguf")
    folder = converted / "models" / "tiny"
    tensors = load_file(folder / "model.safetensors")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert torch.equal(tensors["model.embed_tokens.weight"], torch.from_numpy(embedding).bfloat16())
    assert (tokenizer.bos_token_id, tokenizer.eos_token_id) == (START_ID, END_ID)
    assert tokenizer.apply_chat_template([{"role": "user", "content": "abc"}], tokenize=False) == "abc<|end|>"
    assert tokenizer.decode(tokenizer("cab b").input_ids) == "cab b"


def test_the_folder_is_a_whole_model(converted: Path) -> None:
    folder = converted / "models" / "tiny"
    model = AutoModelForCausalLM.from_pretrained(folder)
    assert model.generation_config.eos_token_id == END_ID
    assert "quantization_config" not in json.loads((folder / "config.json").read_text())
    assert open_gguf(converted / "tiny.gguf", converted).bytes_of(BlockRange(0, 2)) > 0


def test_a_second_time_nothing_is_converted(converted: Path) -> None:
    folder = converted / "models" / "tiny"
    before = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    checkpoint = open_gguf(converted / "tiny.gguf", converted)
    assert checkpoint.directory == folder
    assert {path: path.stat().st_mtime_ns for path in folder.iterdir()} == before
    assert visible(converted / "models") == {"tiny"}


def test_another_file_of_that_name_gets_its_own_folder(converted: Path, tmp_path: Path) -> None:
    write_tiny_gguf(tmp_path / "tiny.gguf", seed=1)
    first, second = (open_gguf(folder / "tiny.gguf", converted) for folder in (converted, tmp_path))
    assert first.id == second.id == "tiny"
    assert first.fingerprint != second.fingerprint
    assert second.directory.parent == first.directory.parent
    assert second.directory.name.startswith("tiny-")


def test_the_fingerprint_is_the_files(converted: Path) -> None:
    by_file = open_gguf(converted / "tiny.gguf", converted)
    by_folder = open_checkpoint(str(by_file.directory), name=None, cache_dir=converted)
    assert by_file.fingerprint == by_folder.fingerprint


@pytest.mark.parametrize("content", [b"", b"not a model at all, but long enough to be read", b"GGUF\x03\0\0\0"])
def test_what_is_no_gguf_file(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "x.gguf").write_bytes(content)
    with pytest.raises(CheckpointError, match="not a whole GGUF file"):
        open_gguf(tmp_path / "x.gguf", tmp_path)
    assert not visible(tmp_path / "models")


def test_a_file_cut_off_leaves_nothing_behind(tmp_path: Path) -> None:
    write_tiny_gguf(tmp_path / "x.gguf")
    (tmp_path / "x.gguf").write_bytes((tmp_path / "x.gguf").read_bytes()[:-500])
    with pytest.raises(CheckpointError, match=r"x\.gguf"):
        open_gguf(tmp_path / "x.gguf", tmp_path)
    assert not visible(tmp_path / "models")


@pytest.mark.slow
def test_the_conversion_ends_with_a_process_that_is_killed(tmp_path: Path) -> None:
    write_tiny_gguf(tmp_path / "x.gguf")
    program = "import sys, pathlib; from shared.checkpoint import open_checkpoint\n"
    program += "open_checkpoint(sys.argv[1], name=None, cache_dir=pathlib.Path(sys.argv[2]))"
    command = [sys.executable, "-c", program, str(tmp_path / "x.gguf"), str(tmp_path)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        assert any("under way" in line for line in process.stderr)
        [conversion] = psutil.Process(process.pid).children()
        process.kill()
    conversion.wait(10)
    assert not visible(tmp_path / "models") - {".x.partial"}
    assert open_gguf(tmp_path / "x.gguf", tmp_path).blocks == 2
    assert visible(tmp_path / "models") == {"x"}


def test_a_full_disk_is_told_before_the_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_tiny_gguf(tmp_path / "x.gguf")
    monkeypatch.setattr("shared.checkpoint.storage.SPARE_BYTES", 1 << 60)
    with pytest.raises(DiskFull, match="make room"):
        open_gguf(tmp_path / "x.gguf", tmp_path)
    assert not visible(tmp_path / "models")
