"""The benchmarks under faults, whole, on swarms of real processes with a tiny model."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.tiny_models import make_tiny_model

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


def figures(benchmark: str, folder: Path, *words: str) -> dict[str, Any]:
    """What a benchmark wrote; AssertionError with what it printed unless its exit status is 0."""
    model, found = make_tiny_model(folder / "model", context=4096), folder / "found.json"
    command = [sys.executable, "-m", f"benchmarks.{benchmark}", "--model", model, "--json", found, *words]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(found.read_text())


def test_streams_outlive_what_happens_to_their_peers(tmp_path: Path) -> None:
    found = figures("chaos", tmp_path, "--minutes", "0.5", "--seed", "1", "--every-s", "3")
    assert sum(found["faults"].values()) >= 4
    assert found["tokens"] == found["checked"] > 500
    assert found["wrong_tokens"] == 0
    assert found["passed"]


def test_each_hop_that_dies_has_its_pause(tmp_path: Path) -> None:
    found = figures("failover", tmp_path, "--rounds", "1", "--context", "200", "--kinds", "kill")
    assert [case["hop"] for case in found["cases"]] == ["first", "middle", "last"]
    assert all(0 < case["pauses_s"][0] < 10 for case in found["cases"])
