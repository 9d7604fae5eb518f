"""Long work shown on stderr: a bar, or a spinner with the time gone by; plain lines when stderr is no terminal."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
    TransferSpeedColumn,
)

LINE_PERIOD_S = 5.0
QUIET_S = 1.0  # work shorter than this needs no line

Advance = Callable[[int], None]
"""Says that so many more bytes are done; 0 where only time passes."""


@contextmanager
def show_progress(title: str, total_bytes: int | None = None, done_bytes: int = 0) -> Iterator[Advance]:
    """Shows `title` while the body runs. `total_bytes` None: only the time is known."""
    if sys.stderr.isatty():
        with _bar(total_bytes) as bar:
            task = bar.add_task(title, total=total_bytes, completed=done_bytes)
            yield lambda count: bar.advance(task, count)
    else:
        lines = _Lines(title, total_bytes, done_bytes)
        yield lines.advance
        lines.finish()


def _bar(total_bytes: int | None) -> Progress:
    title = TextColumn("{task.description}")
    columns = (SpinnerColumn(), title, TimeElapsedColumn())
    if total_bytes is not None:
        columns = (title, BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeElapsedColumn())
    return Progress(*columns, console=Console(stderr=True), transient=True)


class _Lines:
    """A line when the work turns out to be long, one every few seconds, one at its end."""

    def __init__(self, title: str, total_bytes: int | None, done_bytes: int) -> None:
        self.title = title
        self.total_bytes = total_bytes
        self.done_bytes = done_bytes
        self.started = time.monotonic()
        self.next_line = self.started + QUIET_S

    def advance(self, count: int) -> None:
        self.done_bytes += count
        now = time.monotonic()
        if now >= self.next_line:
            self.next_line = now + LINE_PERIOD_S
            self._write(self._state())

    def finish(self) -> None:
        if time.monotonic() - self.started >= QUIET_S:
            self._write("done")

    def _state(self) -> str:
        if self.total_bytes is None:
            return "under way"
        return f"{self.done_bytes / 1e6:.0f} of {self.total_bytes / 1e6:.0f} MB"

    def _write(self, state: str) -> None:
        sys.stderr.write(f"{self.title}: {state} ({time.monotonic() - self.started:.0f} s)\n")
        sys.stderr.flush()
