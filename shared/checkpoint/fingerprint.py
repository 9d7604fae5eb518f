"""One value for what a model is: the same files give the same fingerprint here, elsewhere and on a hub."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from typing import Any

from shared.checkpoint.files import TOKENIZER_FILES, ModelFiles
from shared.checkpoint.marker import GgufOrigin
from shared.types import Fingerprint

VOLATILE_FIELDS = frozenset({"transformers_version", "_name_or_path", "dtype", "torch_dtype"})
"""Fields of a configuration that say how it was saved, not what the model is."""


def fingerprint_files(files: ModelFiles, config: Mapping[str, Any], shards: Iterable[str]) -> Fingerprint:
    """SHA-256 over the configuration, the tokenizer's files and the shards. Hashes what no hub has hashed."""
    tokenizer = set(TOKENIZER_FILES).intersection(files.names())
    fields = {"config": _stable(config), "tokenizer": _hashed(files, tokenizer), "weights": _hashed(files, shards)}
    return _digest(fields)


def fingerprint_gguf(origin: GgufOrigin) -> Fingerprint:
    """SHA-256 over the source file's hash and the converter's version: what was written may differ in its headers."""
    return _digest({"gguf": origin.sha256, "converter": origin.converter})


def _hashed(files: ModelFiles, names: Iterable[str]) -> list[tuple[str, str]]:
    return [(name, files.sha256(name)) for name in sorted(names)]


def _stable(value: Any) -> Any:
    """The configuration without its volatile fields, at any depth."""
    if isinstance(value, Mapping):
        return {key: _stable(each) for key, each in value.items() if key not in VOLATILE_FIELDS}
    if isinstance(value, list):
        return [_stable(each) for each in value]
    return value


def _digest(fields: Mapping[str, Any]) -> Fingerprint:
    canonical = json.dumps(fields, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return Fingerprint(hashlib.sha256(canonical.encode()).hexdigest())
