"""A local model's identity, and folders with one part of it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from shared.checkpoint import Checkpoint, block_of, open_checkpoint
from shared.errors import UsageError
from shared.types import BlockRange
from tests.tiny_models import make_tiny_model


def open_local(folder: Path, cache: Path, name: str | None = None) -> Checkpoint:
    return open_checkpoint(str(folder), name=name, cache_dir=cache)


def edit_config(folder: Path, **fields: object) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))


def change_tensor(folder: Path, name: str) -> None:
    shard = folder / json.loads((folder / "model.safetensors.index.json").read_text())["weight_map"][name]
    tensors = load_file(shard)
    save_file({**tensors, name: tensors[name] + 1}, shard)


def test_says_what_the_model_is(tiny_llama: Path, tmp_path: Path) -> None:
    checkpoint = open_local(tiny_llama, tmp_path)
    assert (checkpoint.id, checkpoint.family) == ("tiny-llama", "llama")
    assert (checkpoint.blocks, checkpoint.hidden_size, len(checkpoint.fingerprint)) == (6, 64, 64)


def test_model_name_is_the_public_id(tiny_llama: Path, tmp_path: Path) -> None:
    assert open_local(tiny_llama, tmp_path, name="me/mine").id == "me/mine"


@pytest.mark.parametrize("family", ["gpt2", "bloom", "mpt", "opt", "gpt_neox", "mixtral"])
def test_every_tensor_belongs_to_one_part(family: str, tmp_path: Path) -> None:
    checkpoint = open_local(make_tiny_model(tmp_path / family, family), tmp_path / "cache")
    parts = [BlockRange(0, 1), BlockRange(1, 4), BlockRange(4, 6), "ends"]
    assert checkpoint.blocks == 6
    assert checkpoint.hidden_size == 64
    stored = sum(
        tensor.nbytes for shard in checkpoint.directory.glob("*.safetensors") for tensor in load_file(shard).values()
    )
    assert sum(checkpoint.bytes_of(part) for part in parts) == stored


def test_a_range_has_only_its_shards_and_tensors(tiny_llama: Path, tmp_path: Path) -> None:
    checkpoint = open_local(tiny_llama, tmp_path)
    with checkpoint.prepare(BlockRange(2, 4)) as folder:
        index = json.loads((folder / "model.safetensors.index.json").read_text())["weight_map"]
        shards = {path.name for path in folder.glob("*.safetensors")}
        assert {block_of(name) for name in index} == {2, 3}
        assert shards == set(index.values())
        assert len(shards) < len(list(tiny_llama.glob("*.safetensors")))
        assert not (folder / "tokenizer.json").exists()
    assert not folder.exists()


def test_ends_have_the_tokenizer(tiny_llama: Path, tmp_path: Path) -> None:
    with open_local(tiny_llama, tmp_path).prepare("ends") as folder:
        index = json.loads((folder / "model.safetensors.index.json").read_text())["weight_map"]
        assert set(index) == {"model.embed_tokens.weight", "model.norm.weight", "lm_head.weight"}
        assert AutoTokenizer.from_pretrained(folder).decode([72, 105]) == AutoTokenizer.from_pretrained(
            tiny_llama
        ).decode([72, 105])


def test_bytes_follow_the_element_size(tiny_llama: Path, tmp_path: Path) -> None:
    checkpoint = open_local(tiny_llama, tmp_path)
    part = BlockRange(0, 2)
    assert checkpoint.bytes_of(part) == checkpoint.bytes_of(part, 4) == 2 * checkpoint.bytes_of(part, 2) > 0


def test_one_file_models_are_read_too(tmp_path: Path) -> None:
    folder = make_tiny_model(tmp_path / "model", shard_size="1GB")
    with open_local(folder, tmp_path).prepare(BlockRange(0, 2)) as part:
        model = AutoModelForCausalLM.from_pretrained(folder)
        index = json.loads((part / "model.safetensors.index.json").read_text())["weight_map"]
        tensors = load_file(part / "model.safetensors")
    expected = {name for name, _ in model.named_parameters() if block_of(name) in (0, 1)}
    assert set(index) == expected
    assert all(torch.equal(tensors[name], model.get_parameter(name)) for name in expected)


def test_a_range_past_the_model_is_a_usage_error(tiny_llama: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="0:6"), open_local(tiny_llama, tmp_path).prepare(BlockRange(4, 7)):
        pass


def test_digests_tell_which_block_differs(tiny_llama: Path, tiny_copy: Path, tmp_path: Path) -> None:
    blocks = BlockRange(0, 6)
    before = open_local(tiny_llama, tmp_path).digests(blocks)
    change_tensor(tiny_copy, "model.layers.3.mlp.up_proj.weight")
    after = open_local(tiny_copy, tmp_path).digests(blocks)
    assert [len(each) for each in before] == [16] * 6
    assert [a == b for a, b in zip(before, after, strict=True)] == [True, True, True, False, True, True]


def test_digests_do_not_depend_on_the_shards(tiny_llama: Path, tmp_path: Path) -> None:
    whole = make_tiny_model(tmp_path / "whole", shard_size="1GB")
    assert open_local(whole, tmp_path).digests(BlockRange(1, 3)) == open_local(tiny_llama, tmp_path).digests(
        BlockRange(1, 3)
    )


def test_fingerprint_ignores_how_a_config_was_saved(tiny_llama: Path, tiny_copy: Path, tmp_path: Path) -> None:
    edit_config(
        tiny_copy, transformers_version="0.0", _name_or_path="elsewhere", torch_dtype="float16", dtype="float16"
    )
    assert open_local(tiny_copy, tmp_path).fingerprint == open_local(tiny_llama, tmp_path).fingerprint


def test_fingerprint_follows_config_tokenizer_and_weights(tiny_copy: Path, tmp_path: Path) -> None:
    seen = [open_local(tiny_copy, tmp_path).fingerprint]
    edit_config(tiny_copy, rms_norm_eps=0.5)
    seen.append(open_local(tiny_copy, tmp_path).fingerprint)
    (tiny_copy / "chat_template.jinja").write_text("{{ messages }}")
    seen.append(open_local(tiny_copy, tmp_path).fingerprint)
    change_tensor(tiny_copy, "model.norm.weight")  # same size: only the time of change tells
    seen.append(open_local(tiny_copy, tmp_path).fingerprint)
    assert len(set(seen)) == 4
