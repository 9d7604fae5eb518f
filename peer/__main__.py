"""The program `peer`: `start` serves a range of a model's blocks."""

from __future__ import annotations

from importlib.metadata import version
from typing import Any

import click

from peer.memory import MemoryCap
from shared.options import ENVIRONMENT, PORT, node_options
from shared.program import set_up_logs
from shared.types import BlockRange


class Parsed(click.ParamType):
    """A noun of ours, read by its own `parse`."""

    def __init__(self, noun: type[BlockRange] | type[MemoryCap], name: str) -> None:
        self.noun = noun
        self.name = name

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if isinstance(value, self.noun):
            return value
        try:
            return self.noun.parse(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)


class CacheTokens(click.IntRange):
    """A number, or `auto`, which is None."""

    name = "auto|N"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        return None if value == "auto" else super().convert(value, param, ctx)


@click.group(context_settings=ENVIRONMENT)
@click.version_option(version("corolla"), prog_name="peer")
def main() -> None:
    """Give a part of this machine to a swarm that serves large language models."""


@main.command(context_settings=ENVIRONMENT)
@click.option("--model", required=True, metavar="MODEL", help="Hub id, directory or .gguf file.")
@click.option("--model-name", metavar="ID", help="Public id of a model that has none.")
@click.option(
    "--blocks",
    type=Parsed(BlockRange, "FROM:TO"),
    help="Blocks to hold, such as 8:16.  [default: where the swarm is weak]",
)
@click.option("--num-blocks", type=click.IntRange(1, 10_000), help="How many to hold.  [default: as many as fit]")
@click.option("--quantize", type=click.Choice(("auto", "none", "int8", "nf4")), default="auto", show_default=True)
@click.option(
    "--cache-tokens",
    type=CacheTokens(1, 10**9),
    default="auto",
    show_default=True,
    help="Cache for all sessions together; auto: what --memory leaves.",
)
@click.option(
    "--memory",
    type=Parsed(MemoryCap, "GB|PERCENT"),
    help="What blocks and cache take at most, such as 8, 7.5GB or 50%.  [default: 80% of what is free]",
)
@click.option(
    "--outbox-memory",
    type=Parsed(MemoryCap, "GB|PERCENT"),
    help="Main memory for what is sent again when another peer dies.  [default: 10% of what is free]",
)
@click.option("--name", metavar="NAME", help="Shown to others.  [default: two random words]")
@click.option("--metrics-port", type=PORT, help="Port of /metrics, counters for Prometheus.  [default: none]")
@click.option("--metrics-host", default="127.0.0.1", show_default=True, help="Address of the metrics' port.")
@click.option(
    "--drain-seconds",
    type=click.FloatRange(min=0, max=86400),
    default=60,
    show_default=True,
    metavar="S",
    help="After a first signal: how long to wait until running sessions have moved to other peers.",
)
@click.option("--exit-with-parent", is_flag=True, hidden=True, help="End when stdin is closed.")
@node_options("peer")
def start(log_level: str, exit_with_parent: bool, **options: Any) -> None:
    """Hold a range of a model's blocks and serve it to the swarm."""
    if options["blocks"] and options["num_blocks"]:
        raise click.UsageError("--blocks and --num-blocks exclude each other: say one of them")
    set_up_logs(log_level)
    from peer.start import start_peer  # torch takes seconds to import: --help should not wait for it

    start_peer(exit_with_parent, **options)


if __name__ == "__main__":
    main()
