"""When a node announces itself, and that it ends when it is told to."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from shared.announcer import Announcer
from shared.identity import Identity
from tests.shared.announcements import PEER


@pytest.mark.parametrize("turns", range(6))
async def test_an_announcer_ends_though_there_is_news_at_that_very_moment(tmp_path: Path, turns: int) -> None:
    announcer = Announcer(Identity.create(), tmp_path / "sequence", lambda: 60.0, lambda record: None)
    announcer.announce(swarm="test", protocol=(1, 1), addresses=("/ip4/192.0.2.7/tcp/31330",), **PEER)
    running = asyncio.create_task(announcer.run())
    for _ in range(10):
        await asyncio.sleep(0)  # until it waits for the next time
    announcer.announce(cache_tokens=17)
    for _ in range(turns):
        await asyncio.sleep(0)
    running.cancel()
    await asyncio.wait({running}, timeout=1)
    assert running.cancelled()
