"""The program `gateway`: `start` serves the OpenAI API over a swarm, `keys` says to whom, `demo` shows it all here."""

from __future__ import annotations

from importlib.metadata import version
from typing import Any

import click

from gateway.keys import keys
from gateway.options import edge_options
from shared.options import ENVIRONMENT, FOLDER, PORT, default_cache_dir, node_options
from shared.program import run, set_up_logs


@click.group(context_settings=ENVIRONMENT)
@click.version_option(version("corolla"), prog_name="gateway")
def main() -> None:
    """Serve large language models from a swarm of peers, behind the OpenAI API."""


@main.command(context_settings=ENVIRONMENT)
@click.option("--model", multiple=True, metavar="MODEL", help="Hub id, directory or .gguf file. Repeatable.")
@click.option("--model-name", multiple=True, metavar="ID", help="Public ids of the models, in their order.")
@click.option("--host", default="127.0.0.1", show_default=True, help="Address of the HTTP server.")
@click.option("--port", type=PORT, default=8000, show_default=True, help="Port of the HTTP server.")
@click.option(
    "--head", type=click.Choice(("none", "int8")), default="none", show_default=True,
    help="How the models' heads are quantized: int8 takes a quarter of float32, on a CPU.",
)  # fmt: skip
@click.option(
    "--queue-length", type=click.IntRange(min=0), default=64, show_default=True, metavar="N",
    help="Requests of a model that may wait for cache on the peers; more get 429.",
)  # fmt: skip
@click.option(
    "--queue-seconds", type=click.FloatRange(min=0, max=3600), default=60, show_default=True, metavar="S",
    help="How long each may wait; then it gets 503.",
)  # fmt: skip
@click.option(
    "--wait-for-coverage", type=click.FloatRange(min=0, max=3600), default=30, show_default=True, metavar="S",
    help="How long a running answer waits when a peer dies and no other holds its blocks.",
)  # fmt: skip
@click.option(
    "--drain-seconds", type=click.FloatRange(min=0, max=86400), default=30, show_default=True, metavar="S",
    help="After a first signal: how long running requests may take to finish.",
)  # fmt: skip
@edge_options()
@node_options("gateway")
def start(log_level: str, **options: Any) -> None:
    """Serve the OpenAI API. Without --model: whatever the swarm has from a hub."""
    set_up_logs(log_level)
    from gateway.start import start_gateway  # torch takes seconds to import: --help should not wait for it

    start_gateway(**options)


@main.command(context_settings=ENVIRONMENT)
@click.option("--peers", type=click.IntRange(1, 30), default=3, show_default=True, help="How many peers to start.")
@click.option("--port", type=PORT, default=8000, show_default=True, help="Port of the HTTP server.")
@click.option("--quantize", type=click.Choice(("none", "int8")), default="none", show_default=True)
@click.option(
    "--threads", type=click.IntRange(1, 1024), default=1, show_default=True, help="Of torch, in each process."
)
@click.option("--cache-dir", type=FOLDER, default=default_cache_dir, help="Folder for models.")
def demo(**options: Any) -> None:
    """Start a small model, split over peers on this machine, and a gateway in front of them."""
    set_up_logs("warning")
    from gateway.demo import run_demo

    run(lambda leaving: run_demo(leaving, **options))


main.add_command(keys)


if __name__ == "__main__":
    main()
