"""`peer start`: settings checked, the model found, then the peer runs."""

from __future__ import annotations

from typing import Any

from peer.node import run_peer
from peer.settings import PeerSettings
from shared.checkpoint import open_checkpoint
from shared.program import Leaving, parent_gone, run, together
from shared.state import StateFolder


def start_peer(exit_with_parent: bool, **options: Any) -> None:
    """Run until a signal. What is wrong with the flags is told before anything is started."""
    settings = PeerSettings(**options)

    async def main(leaving: Leaving) -> None:
        state = StateFolder(settings.state_dir)
        checkpoint = open_checkpoint(settings.model, name=settings.model_name, cache_dir=settings.cache_dir)
        peer = run_peer(settings, state.identity(), checkpoint, leaving)
        await (together(peer, parent_gone()) if exit_with_parent else peer)

    run(main)
