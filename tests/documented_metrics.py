"""The tables of `docs/metrics.md`, to compare with what a program exposes."""

from __future__ import annotations

import re
from pathlib import Path

from prometheus_client import CollectorRegistry
from prometheus_client.parser import text_string_to_metric_families

from shared.exposition import exposition

PAGE = Path(__file__).parents[1] / "docs" / "metrics.md"
ROW = re.compile(r"^\| `(?P<name>\w+)` \| (?P<type>\w+) \|", re.MULTILINE)


def documented(program: str) -> dict[str, str]:
    """Names and types in the section of one program."""
    section = PAGE.read_text(encoding="utf-8").partition(f"\n## {program}\n")[2].partition("\n## ")[0]
    return {row["name"]: row["type"] for row in ROW.finditer(section)}


def exposed(registry: CollectorRegistry) -> dict[str, str]:
    """Names and types as Prometheus reads them."""
    families = text_string_to_metric_families(exposition(registry).decode())
    return {each.name + ("_total" if each.type == "counter" else ""): each.type for each in families}
