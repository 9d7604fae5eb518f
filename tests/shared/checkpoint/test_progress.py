"""What is shown while a user waits."""

from __future__ import annotations

import pytest

from shared.checkpoint.progress import show_progress


def test_plain_lines_where_stderr_is_no_terminal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shared.checkpoint.progress.QUIET_S", 0.0)
    with show_progress("Fetching x", total_bytes=10_000_000) as advance:
        advance(2_000_000)
        advance(1_000_000)  # within the period of the line before
    shown = capsys.readouterr()
    assert shown.err.splitlines() == ["Fetching x: 2 of 10 MB (0 s)", "Fetching x: done (0 s)"]
    assert not shown.out


def test_short_work_shows_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    with show_progress("Fetching x", total_bytes=10) as advance:
        advance(10)
    assert capsys.readouterr().err == ""
