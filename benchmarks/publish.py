"""The end of a benchmark's run: its tables on stdout, its figures in a file."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from benchmarks.bench import say


def publish(lines: Iterable[str], figures: Mapping[str, Any], path: Path | None) -> None:
    """Print the lines, and write the figures as JSON where a file is named."""
    print("\n".join(lines))
    if path:
        path.write_text(json.dumps(figures, indent=1))
        say(f"written to {path}")
