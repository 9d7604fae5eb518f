"""The programs' flags: what is wrong is told at once, in a sentence that says what to do."""

from __future__ import annotations

import json
import signal
import socket
from pathlib import Path

import pytest

from shared.state import StateFolder
from tests.swarm import Node
from tests.tiny_models import make_tiny_model


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_model(tmp_path_factory.mktemp("model"), blocks=6)


def refusal(folder: Path, *command: str | Path) -> str:
    """What a program says that ends at once; it must be short, and no traceback."""
    node = Node(*command, "--state-dir", folder / "state", "--cache-dir", folder / "cache")
    assert node.wait(60) != 0
    said = "\n".join(node.errors)
    assert "Traceback" not in said, said
    return said


def test_a_range_outside_the_model(model: Path, tmp_path: Path) -> None:
    assert "within 0:6" in refusal(tmp_path, "peer", "start", "--model", model, "--blocks", "4:9")


@pytest.mark.parametrize("blocks", ["6:2", "a:b", "3", "-1:2"])
def test_blocks_that_are_no_range(model: Path, tmp_path: Path, blocks: str) -> None:
    assert "range of blocks" in refusal(tmp_path, "peer", "start", "--model", model, f"--blocks={blocks}")


@pytest.mark.slow
def test_a_folder_without_a_model(tmp_path: Path) -> None:
    assert "config.json" in refusal(tmp_path, "peer", "start", "--model", tmp_path)
    assert "config.json" in refusal(tmp_path, "gateway", "start", "--model", tmp_path)


def test_a_model_that_is_nowhere(tmp_path: Path) -> None:
    assert "nowhere" in refusal(tmp_path, "peer", "start", "--model", "nowhere")


def test_a_family_that_cannot_be_split_is_refused_by_name(model: Path, tmp_path: Path) -> None:
    config = {**json.loads((model / "config.json").read_text()), "model_type": "qwen3_next"}
    (tmp_path / "next").mkdir()
    (tmp_path / "next" / "config.json").write_text(json.dumps(config))
    assert "qwen3_next" in refusal(tmp_path, "peer", "start", "--model", tmp_path / "next")


@pytest.mark.parametrize("flag", ["--p2p-port", "--data-port", "--metrics-port"])
def test_a_port_in_use(model: Path, tmp_path: Path, flag: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        said = refusal(tmp_path, "peer", "start", "--model", model, "--listen", "127.0.0.1", flag, str(port))
    assert flag in said
    assert "another" in said


def test_the_gateways_port_in_use(model: Path, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert "--port" in refusal(tmp_path, "gateway", "start", "--model", model, "--port", str(port))


def test_a_state_folder_that_another_process_uses(model: Path, tmp_path: Path) -> None:
    state = StateFolder(tmp_path / "state")
    assert "--state-dir" in refusal(tmp_path, "peer", "start", "--model", model)
    assert state.identity().peer


def test_not_enough_memory(model: Path, tmp_path: Path) -> None:
    said = refusal(tmp_path, "peer", "start", "--model", model, "--blocks", "0:6", "--cache-tokens", "1000000000")
    assert "GB are free" in said
    assert "--cache-tokens" in said


@pytest.mark.parametrize(
    ("flags", "hint"),
    [
        (("--join", "somewhere"), "--join"),
        (("--swarm", "a/b"), "swarm"),
        (("--device", "toaster"), "cpu"),
        (("--device", "cuda:7"), "cuda:7"),
        (("--blocks", "0:2", "--num-blocks", "2"), "exclude each other"),
        (("--quantize", "int2"), "int8"),
    ],
)
def test_flags_that_make_no_sense(model: Path, tmp_path: Path, flags: tuple[str, ...], hint: str) -> None:
    assert hint in refusal(tmp_path, "peer", "start", "--model", model, "--listen", "127.0.0.1", *flags)


@pytest.mark.slow
def test_ctrl_c_while_starting_leaves_at_once(model: Path, tmp_path: Path) -> None:
    flags = ("--state-dir", tmp_path / "state", "--cache-dir", tmp_path / "cache", "--listen", "127.0.0.1")
    node = Node("peer", "start", "--model", model, "--blocks", "0:2", "--swarm", "ctrl-c", *flags)
    node.ready()
    assert node.stop(signal.SIGINT) == 0
