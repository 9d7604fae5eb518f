"""`gateway start`: settings checked, models found, then the gateway runs."""

from __future__ import annotations

from itertools import zip_longest
from typing import Any

from gateway import guard
from gateway.node import run_gateway
from gateway.settings import GatewaySettings
from shared.checkpoint import Checkpoint, open_checkpoint
from shared.errors import UsageError
from shared.ports import take_port
from shared.program import Leaving, run
from shared.state import StateFolder


def start_gateway(**options: Any) -> None:
    """Run until a signal. What is wrong with the flags is told before anything is started."""
    settings = GatewaySettings(**options)

    async def main(leaving: Leaving) -> None:
        guard.check(settings)
        state = StateFolder(settings.state_dir)
        listening = take_port(settings.host, settings.port, settings.port, "--port")
        await run_gateway(settings, state.identity(), open_models(settings), listening, leaving)

    run(main)


def open_models(settings: GatewaySettings) -> list[Checkpoint]:
    """The models of the settings, each with its name if it has one. Raises UsageError, CheckpointError."""
    if len(settings.model_name) > len(settings.model):
        raise UsageError("there are more --model-name than --model: each name belongs to the model of the same place")
    pairs = zip_longest(settings.model, settings.model_name)
    return [open_checkpoint(model, name=name, cache_dir=settings.cache_dir) for model, name in pairs]
