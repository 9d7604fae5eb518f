"""What the docs tell a service manager: it must wait for a program longer than the program waits for its work."""

from __future__ import annotations

import re
from configparser import ConfigParser
from pathlib import Path

import pytest

import gateway.__main__ as gateway_program
import peer.__main__ as peer_program

ROOT = Path(__file__).parent.parent
STARTS = {"peer": peer_program.start, "gateway": gateway_program.start}
ENDING_S = 10
"""What a program may take to end when its work is done, or given up."""


def drain_seconds(program: str) -> float:
    """The default of --drain-seconds."""
    (default,) = (each.default for each in STARTS[program].params if each.name == "drain_seconds")
    assert isinstance(default, int | float)
    return default


def documented_unit(program: str) -> ConfigParser:
    """The systemd unit in the docs."""
    docs = (ROOT / "docs" / "services.md").read_text(encoding="utf-8")
    found = re.search(rf"`/etc/systemd/system/corolla-{program}\.service`:\n\n```ini\n(.*?)```", docs, re.DOTALL)
    assert found
    unit = ConfigParser(interpolation=None)
    unit.optionxform = str  # pyright: ignore[reportAttributeAccessIssue]  options keep their case
    unit.read_string(found[1])
    return unit


@pytest.mark.parametrize("program", STARTS)
def test_systemd_waits_until_a_program_has_left(program: str):
    service = documented_unit(program)["Service"]
    assert int(service["TimeoutStopSec"]) >= drain_seconds(program) + ENDING_S
    assert service["KillMode"] == "mixed"
    assert service["ExecStart"].endswith(f"bin/{program} start")


@pytest.mark.parametrize("program", STARTS)
def test_compose_waits_until_a_program_has_left(program: str):
    compose = (ROOT / "compose.yaml").read_text(encoding="utf-8")
    grace = re.search(rf"(?:x-|  ){program}:.*?stop_grace_period: (\d+)s", compose, re.DOTALL)
    assert grace
    assert int(grace[1]) >= drain_seconds(program) + ENDING_S
