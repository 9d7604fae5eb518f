"""The whole benchmark, on a swarm of real processes with a tiny model."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.tiny_models import make_tiny_model


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_every_question_gets_a_figure_on_a_model_of_ones_own(tmp_path: Path) -> None:
    model, found = make_tiny_model(tmp_path / "model", context=4096), tmp_path / "bench.json"
    words = ["--model", model, "--peers", "2", "--streams", "1,3", "--tokens", "8", "--rounds", "1", "--trace"]
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.stream", *words, "--json", found],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    figures = json.loads(found.read_text())
    assert set(figures["rates"]) >= {"2 peers", "transformers, 1 thread", "transformers, 2 threads"}
    assert [each["prompt_tokens"] for each in figures["first_tokens"]][1:] == pytest.approx([512, 2048], abs=8)
    assert all(load["cpu_s"]["peers"] > 0 for load in figures["loads"]["3"])
    assert [each["node"] for each in figures["memory"]] == ["gateway", "peer 0:3", "peer 3:6"]
    assert figures["prompt_trace"]["trace"]["hops"][0]["forward"]["total"] > 0
    assert "streams at once" in done.stdout
