"""Coverage-guided fuzzing of what strangers send: a minute for each parser, by atheris where there is a wheel of it."""

from __future__ import annotations

import asyncio
import importlib.util
import os
import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SECONDS = 50
MEMORY_MB = 1024
AS_SMALL = ("sh", "-c", '"$@"; exit $?', "sh")
"""Linux counts the memory of who starts a process as its peak: that of a shell, not that of these tests."""


@pytest.mark.slow
@pytest.mark.skipif(not importlib.util.find_spec("atheris"), reason="atheris has no wheel for this machine")
@pytest.mark.parametrize("target", ["frames", "announcements"])
async def test_a_minute_of_fuzzing_finds_nothing(target: str, tmp_path: Path) -> None:
    flags = (f"-max_total_time={SECONDS}", f"-rss_limit_mb={MEMORY_MB}", "-timeout=5", "-max_len=4096", "-verbosity=0")
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    fuzzer = await asyncio.create_subprocess_exec(
        *AS_SMALL,
        *(sys.executable, "-m", "tests.shared.fuzz_target", target, str(corpus), *flags, "-print_final_stats=1"),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    async with asyncio.timeout(SECONDS + 60):
        output, _ = await fuzzer.communicate()
    text = output.decode(errors="replace")
    assert fuzzer.returncode == 0, text[-4000:]
    found = re.search(r"new_units_added: *(\d+)", text)
    assert found, text[-4000:]
    assert int(found[1]) > 10  # ways through the code that the examples do not take
