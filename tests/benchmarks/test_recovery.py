"""Predicted pauses follow the line, and a replay's compute time its length."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.hosts import Line
from benchmarks.recovery import Replay, predict, transfer_s
from shared.checkpoint import open_checkpoint
from shared.types import BlockRange
from tests.tiny_models import make_tiny_model

LINE = Line(delay_ms=50, rate_mbit=100)


def test_many_bytes_take_the_time_of_the_line_and_little_more() -> None:
    seconds = transfer_s(LINE, 50_000_000)
    assert 4.0 < seconds < 4.0 + 8 * LINE.round_trip_s


def test_few_bytes_on_a_fresh_connection_take_its_first_round_trips() -> None:
    assert transfer_s(LINE, 10_000) < 0.01
    assert transfer_s(LINE, 40_000) == pytest.approx(0.1 + 25_520 / 12_500_000)


def test_on_loopback_only_prefill_and_a_step_count() -> None:
    assert predict(None, 10**9, prefill_s=0.2, step_s=0.05).total_s == pytest.approx(0.25)


def test_a_longer_replay_takes_longer(tmp_path: Path) -> None:
    model = make_tiny_model(tmp_path / "model", context=4096)
    replay = Replay(open_checkpoint(str(model), name=None, cache_dir=tmp_path), BlockRange(2, 4))
    assert replay.bytes(10) == 10 * 64 * 4
    assert replay.prefill_s(2048) > 2 * replay.prefill_s(32)
