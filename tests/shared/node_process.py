"""A node as a program of its own: `node_process.py SWARM PORT STATE_DIR JOIN…`; prints the process id of its child."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from shared.identity import Identity
from shared.network import Network
from tests.shared.announcements import PEER, Settings


async def main(swarm: str, port: str, state_dir: str, *join: str) -> None:
    settings = Settings(Path(state_dir), swarm, join)
    async with Network(Identity.create(), settings, default_port=int(port), period_s=1.0) as network:
        await network.announce(**{**PEER, "name": "victim"})
        sys.stdout.write(f"{network.process_id}\n")
        sys.stdout.flush()
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
