"""Which shard holds which tensor, and hashes of the tensors of one block."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from contextlib import ExitStack
from typing import Any

from shared.checkpoint.digest import read_chunks
from shared.checkpoint.files import INDEX, SINGLE_SHARD, ModelFiles
from shared.errors import CheckpointError, ModelNotFound

WeightMap = Mapping[str, str]
"""Tensor name to the plain name of the shard that holds it."""

DIGEST_BYTES = 16
_SHARD_NAME = re.compile(r"\w[\w.-]*\.safetensors")
_OTHER_FORMATS = (".bin", ".pt", ".pth", ".gguf", ".h5", ".msgpack")


def read_weight_map(files: ModelFiles) -> WeightMap:
    """From the index, or from the header of a lone shard. Raises ModelNotFound, CheckpointError."""
    names = files.names()
    if INDEX in names:
        return _read_index(files)
    if SINGLE_SHARD in names:
        return dict.fromkeys(files.header(SINGLE_SHARD), SINGLE_SHARD)
    others = sorted(name for name in names if name.endswith(_OTHER_FORMATS))
    if not others:
        raise ModelNotFound(f"{files.directory} holds no weights ({SINGLE_SHARD}, or shards and {INDEX})")
    raise CheckpointError(
        f"{files.directory} holds its weights as {others[0]}, and Corolla reads safetensors only: "
        "convert them, or choose a model that has them (a .gguf file is passed as --model FILE.gguf)"
    )


def _read_index(files: ModelFiles) -> WeightMap:
    files.fetch([INDEX])
    path = files.directory / INDEX
    try:
        weight_map: dict[Any, Any] = json.loads(path.read_bytes())["weight_map"]
        shards = set(weight_map.values())
        strange = [shard for shard in shards if not _SHARD_NAME.fullmatch(shard)]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{path} is not an index of safetensors files: fetch it again") from error
    if strange or not shards:
        raise CheckpointError(f"{path} names no weights, or files elsewhere: fetch the model from a source you trust")
    return weight_map


def block_digest(files: ModelFiles, tensors: WeightMap) -> bytes:
    """16 bytes of SHA-256 over sorted names, dtypes, shapes and raw bytes of one block's tensors."""
    shards = sorted(set(tensors.values()))
    subject = "block " + json.dumps(sorted(tensors.items()))
    paths = [files.directory / shard for shard in shards]
    return bytes.fromhex(files.memory.remembered(subject, paths, lambda: _hash_tensors(files, tensors)))


def _hash_tensors(files: ModelFiles, tensors: WeightMap) -> str:
    digest = hashlib.sha256()
    shards = set(tensors.values())
    headers = {shard: files.header(shard) for shard in shards}
    with ExitStack() as stack:
        opened = {shard: stack.enter_context((files.directory / shard).open("rb")) for shard in shards}
        for name, shard in sorted(tensors.items()):
            stored = headers[shard][name]
            digest.update(json.dumps([name, stored.dtype, stored.shape]).encode())
            opened[shard].seek(stored.start)
            for chunk in read_chunks(opened[shard], stored.end - stored.start):
                digest.update(chunk)
    return digest.digest()[:DIGEST_BYTES].hex()
