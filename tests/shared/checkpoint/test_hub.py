"""Models on a hub: only what is needed comes, whole, once, and with the fingerprint of the same files on disk."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from huggingface_hub import HfApi

from shared.checkpoint import Checkpoint, open_checkpoint
from shared.errors import CheckpointError, DiskFull, HubOffline, ModelGated, ModelNotFound
from shared.types import BlockRange
from tests.shared.checkpoint.hub_server import TOKEN, Hub, serve_hub

MODEL = "tiny/llama"
RANGE = BlockRange(2, 4)


@pytest.fixture
def hub(tiny_copy: Path) -> Iterator[Hub]:
    with serve_hub(tiny__llama=tiny_copy) as hub:
        yield hub


def open_from(hub: Hub, cache: Path, model: str = MODEL, *, offline: bool = False) -> Checkpoint:
    return open_checkpoint(model, name=None, cache_dir=cache, offline=offline, api=HfApi(endpoint=hub.endpoint))


def shards_of(checkpoint: Checkpoint, part: BlockRange) -> set[str]:
    with checkpoint.prepare(part) as folder:
        return {path.name for path in folder.glob("*.safetensors")}


def weights(names: set[str]) -> set[str]:
    return {name for name in names if name.endswith(".safetensors")}


def test_the_fingerprint_is_the_local_folders_and_needs_no_shard(hub: Hub, tiny_copy: Path, tmp_path: Path) -> None:
    checkpoint = open_from(hub, tmp_path / "hub")
    local = open_checkpoint(str(tiny_copy), name=None, cache_dir=tmp_path / "local")
    assert checkpoint.fingerprint == local.fingerprint
    assert not weights(hub.fetched())


def test_only_the_shards_of_a_range_are_fetched(hub: Hub, tiny_copy: Path, tmp_path: Path) -> None:
    shards = shards_of(open_from(hub, tmp_path), RANGE)
    assert weights(hub.fetched()) == shards
    assert shards < {path.name for path in tiny_copy.glob("*.safetensors")}


def test_a_second_start_fetches_nothing(hub: Hub, tmp_path: Path) -> None:
    shards_of(open_from(hub, tmp_path), RANGE)
    hub.asked.clear()
    shards_of(open_from(hub, tmp_path), RANGE)
    assert not hub.asked


def test_bytes_are_known_before_the_shards_come(hub: Hub, tiny_copy: Path, tmp_path: Path) -> None:
    local = open_checkpoint(str(tiny_copy), name=None, cache_dir=tmp_path / "local")
    assert open_from(hub, tmp_path / "hub").bytes_of(RANGE, 2) == local.bytes_of(RANGE, 2)
    assert not weights(hub.fetched())


def test_digests_are_the_local_folders(hub: Hub, tiny_copy: Path, tmp_path: Path) -> None:
    local = open_checkpoint(str(tiny_copy), name=None, cache_dir=tmp_path / "local")
    checkpoint = open_from(hub, tmp_path / "hub")
    checkpoint.bytes_of(RANGE)  # headers from afar must not be taken for those of the files
    assert checkpoint.digests(RANGE) == local.digests(RANGE)


def test_a_download_goes_on_where_it_was_cut_off(hub: Hub, tmp_path: Path) -> None:
    checkpoint = open_from(hub, tmp_path)
    shard = sorted(set(checkpoint.weights.values()))[0]
    hub.cut_at[shard] = 5000
    checkpoint.files.fetch([shard])
    assert [range_ for file, range_ in hub.asked if file == shard] == [None, "bytes=5000-"]


def test_a_server_without_ranges_sends_all_of_it_again(hub: Hub, tiny_copy: Path, tmp_path: Path) -> None:
    checkpoint = open_from(hub, tmp_path)
    shard = sorted(set(checkpoint.weights.values()))[0]
    hub.cut_at[shard], hub.knows_ranges = (tiny_copy / shard).stat().st_size - 1, False
    checkpoint.files.fetch([shard])
    assert (checkpoint.directory / shard).read_bytes() == (tiny_copy / shard).read_bytes()


def test_a_later_process_goes_on_with_what_an_earlier_one_had(hub: Hub, tiny_copy: Path, tmp_path: Path) -> None:
    checkpoint = open_from(hub, tmp_path)
    shard = sorted(set(checkpoint.weights.values()))[0]
    version = checkpoint.files.sha256(shard)[:12]
    begun = checkpoint.directory / f".{shard}.{version}.partial"
    begun.write_bytes((tiny_copy / shard).read_bytes()[:700])
    open_from(hub, tmp_path).files.fetch([shard])
    assert (shard, "bytes=700-") in hub.asked
    assert (checkpoint.directory / shard).read_bytes() == (tiny_copy / shard).read_bytes()
    assert not begun.exists()


def test_damaged_bytes_are_never_kept(hub: Hub, tmp_path: Path) -> None:
    checkpoint = open_from(hub, tmp_path)
    shard = sorted(set(checkpoint.weights.values()))[0]
    source = hub.models[MODEL] / shard
    source.write_bytes(bytes(source.stat().st_size))
    with pytest.raises(CheckpointError, match="damaged"):
        checkpoint.files.fetch([shard])
    assert not (checkpoint.directory / shard).exists()


def test_a_changed_file_is_fetched_again(hub: Hub, tmp_path: Path) -> None:
    before = open_from(hub, tmp_path)
    config = hub.models[MODEL] / "config.json"
    config.write_text(config.read_text().replace('"use_cache": true', '"use_cache":false'))
    after = open_from(hub, tmp_path)
    assert before.config["use_cache"] != after.config["use_cache"]
    assert before.fingerprint != after.fingerprint


def test_processes_that_fetch_the_same_do_it_once(hub: Hub, tmp_path: Path) -> None:
    with ThreadPoolExecutor(3) as threads:
        shards = list(threads.map(lambda _: shards_of(open_from(hub, tmp_path), RANGE), range(3)))
    fetched = [file for file, _ in hub.asked if file in shards[0]]
    assert sorted(fetched) == sorted(shards[0])


@pytest.mark.parametrize("offline", [True, False])
def test_without_the_hub_the_cache_is_used(offline: bool, hub: Hub, tmp_path: Path) -> None:
    online = open_from(hub, tmp_path)
    shards = shards_of(online, RANGE)
    hub.endpoint = closed_endpoint()
    checkpoint = open_from(hub, tmp_path, offline=offline)
    assert checkpoint.fingerprint == online.fingerprint
    assert shards_of(checkpoint, RANGE) == shards


@pytest.mark.parametrize("offline", [True, False])
def test_without_the_hub_and_the_cache(offline: bool, hub: Hub, tmp_path: Path) -> None:
    hub.endpoint = closed_endpoint()
    with pytest.raises(HubOffline):
        open_from(hub, tmp_path, offline=offline)


def test_offline_with_a_shard_missing(hub: Hub, tmp_path: Path) -> None:
    open_from(hub, tmp_path)
    with pytest.raises(HubOffline, match="lacks model-0"):
        open_from(hub, tmp_path, offline=True).digests(RANGE)


def test_a_gated_model_names_the_way_in(hub: Hub, tmp_path: Path) -> None:
    hub.gated = True
    with pytest.raises(ModelGated, match="HF_TOKEN"):
        open_from(hub, tmp_path)


def test_environment_names_hub_and_token(hub: Hub, tmp_path: Path) -> None:
    hub.gated = True
    program = (
        "import sys, pathlib; from shared.checkpoint import open_checkpoint; from shared.types import BlockRange\n"
        "checkpoint = open_checkpoint(sys.argv[1], name=None, cache_dir=pathlib.Path(sys.argv[2]))\n"
        "print(len(checkpoint.digests(BlockRange(2, 4))))"
    )
    environment = {**os.environ, "HF_ENDPOINT": hub.endpoint, "HF_TOKEN": TOKEN}
    command = [sys.executable, "-c", program, MODEL, str(tmp_path)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == "2\n"
    assert weights(hub.fetched())
    assert not hub.leaks


@pytest.mark.parametrize("model", ["tiny/absent", f"{MODEL}@absent"])
def test_an_absent_model_or_revision(model: str, hub: Hub, tmp_path: Path) -> None:
    with pytest.raises(ModelNotFound):
        open_from(hub, tmp_path, model)


def test_a_model_that_is_only_there_as_gguf(hub: Hub, tmp_path: Path) -> None:
    for path in hub.models[MODEL].iterdir():
        path.unlink()
    (hub.models[MODEL] / "model.Q4_0.gguf").write_bytes(b"GGUF")
    with pytest.raises(ModelNotFound, match=r"--model model\.Q4_0\.gguf"):
        open_from(hub, tmp_path)


def test_an_empty_file_is_a_file(hub: Hub, tmp_path: Path) -> None:
    (hub.models[MODEL] / "merges.txt").touch()
    with open_from(hub, tmp_path).prepare("ends") as folder:
        assert (folder / "merges.txt").read_bytes() == b""


def test_a_revision_has_a_folder_of_its_own(hub: Hub, tmp_path: Path) -> None:
    checkpoint = open_from(hub, tmp_path, f"{MODEL}@main")
    assert checkpoint.id == MODEL
    assert checkpoint.directory == tmp_path / "models" / "tiny" / "llama@main"


def test_a_full_disk_is_told_before_the_download(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint = open_from(hub, tmp_path)
    monkeypatch.setattr("shared.checkpoint.storage.SPARE_BYTES", 1 << 60)
    hub.asked.clear()
    with pytest.raises(DiskFull, match="make room"):
        shards_of(checkpoint, RANGE)
    assert not hub.asked


def closed_endpoint() -> str:
    with socket.socket() as reserved:
        reserved.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{reserved.getsockname()[1]}"
