"""Settings and command-line options that both programs share.

Each flag is an environment variable too: `--p2p-port` is COROLLA_P2P_PORT; the flag wins.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import platformdirs

ENVIRONMENT = {"auto_envvar_prefix": "COROLLA", "help_option_names": ["-h", "--help"], "max_content_width": 110}
PORT = click.IntRange(1, 65535)
FOLDER = click.Path(file_okay=False, path_type=Path)

Command = Callable[..., Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeSettings:
    """What any node is told: where it listens, whom it joins, what it computes with. `None` leaves the choice to it."""

    join: tuple[str, ...]
    swarm: str
    listen: str
    p2p_port: int | None
    data_port: int | None
    announce: tuple[str, ...]
    device: str
    dtype: str
    threads: int | None
    state_dir: Path
    cache_dir: Path


def default_cache_dir() -> Path:
    """Where models are kept."""
    return platformdirs.user_cache_path("corolla", appauthor=False)


def default_state_dir(program: str) -> Path:
    """Where a program keeps what is its own."""
    return platformdirs.user_state_path("corolla", appauthor=False) / program


def _check_swarm(_context: click.Context, _option: click.Parameter, name: str) -> str:
    """A swarm's name is part of a gossip topic."""
    if not 1 <= len(name) <= 64 or not all(each.isalnum() or each in "-_." for each in name):
        raise click.BadParameter("a swarm's name has 1 to 64 letters, digits, '-', '_' or '.'")
    return name


def node_options(program: str) -> Callable[[Command], Command]:
    """Decorator that adds the options behind NodeSettings, and `--log-level`, to a command."""
    options = (
        click.option(
            "--join", multiple=True, metavar="WHERE", help="A multiaddr with /p2p/, or a gateway's URL. Repeatable."
        ),
        click.option("--swarm", default="public", show_default=True, metavar="NAME", callback=_check_swarm),
        click.option("--listen", default="0.0.0.0", show_default=True, metavar="HOST", help="Address for other nodes."),
        click.option("--p2p-port", type=PORT, help="Port of the control plane.  [default: a fixed one, else the next]"),
        click.option("--data-port", type=PORT, help="Port of the data links.  [default: a fixed one, else the next]"),
        click.option(
            "--announce", multiple=True, metavar="ADDR", help="Address that others reach this node at. Repeatable."
        ),
        click.option("--device", default="auto", show_default=True, metavar="auto|cpu|cuda:N"),
        click.option(
            "--dtype", type=click.Choice(("auto", "float32", "bfloat16", "float16")), default="auto", show_default=True
        ),
        click.option(
            "--threads", type=click.IntRange(1, 1024), help="Threads that torch uses.  [default: torch's own]"
        ),
        click.option(
            "--state-dir",
            type=FOLDER,
            default=default_state_dir(program),
            show_default=True,
            help="Identity; one a process.",
        ),
        click.option("--cache-dir", type=FOLDER, default=default_cache_dir, help="Folder for models."),
        click.option(
            "--log-level", type=click.Choice(("debug", "info", "warning", "error")), default="info", show_default=True
        ),
    )
    return lambda command: functools.reduce(lambda wrapped, option: option(wrapped), reversed(options), command)
