"""`corolla.json`: where the files of a folder in the model cache came from."""

from __future__ import annotations

from pathlib import Path

import msgspec

from shared.checkpoint.storage import replace_text
from shared.errors import CheckpointError

MARKER_NAME = "corolla.json"


class GgufOrigin(msgspec.Struct, frozen=True, tag="gguf"):
    """The folder was converted from a `.gguf` file with this SHA-256, by this version of the converter."""

    file: str
    sha256: str
    converter: str


class HubFile(msgspec.Struct, frozen=True):
    """A file as the hub lists it: its SHA-256 if it is in large-file storage, else its git blob's SHA-1."""

    size: int
    sha256: str | None
    git_sha1: str | None


class HubOrigin(msgspec.Struct, frozen=True, tag="hub"):
    """The folder mirrors part of a hub repository at this commit; `files` is the hub's whole list."""

    repository: str
    commit: str
    files: dict[str, HubFile]


Origin = GgufOrigin | HubOrigin


def read_marker(folder: Path) -> Origin | None:
    """None where there is no marker. Raises CheckpointError for one that cannot be read."""
    path = folder / MARKER_NAME
    try:
        return msgspec.json.decode(path.read_bytes(), type=Origin)
    except FileNotFoundError:
        return None
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise CheckpointError(f"{path} cannot be read ({error}): remove {folder}, it will be made anew") from error


def write_marker(folder: Path, origin: Origin) -> None:
    replace_text(folder / MARKER_NAME, msgspec.json.format(msgspec.json.encode(origin)).decode())
