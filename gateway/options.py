"""The options of `gateway start` that say who may use it, and how much."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

Command = Callable[..., Any]

FILE = click.Path(dir_okay=False, path_type=Path)

database_option = click.option(
    "--database", metavar="URL", show_envvar=False,
    help="postgresql://… or sqlite:////…: keys, usage, stored responses.  [default: gateway.db in the state folder]",
)  # fmt: skip


def edge_options() -> Callable[[Command], Command]:
    """Decorator that adds them to a command."""
    options = (
        click.option(
            "--require-keys/--no-require-keys", default=None,
            help="Whether callers need a key.  [default: unless --host is loopback]",
        ),
        click.option(
            "--host-name", multiple=True, metavar="NAME",
            help="A name by which a gateway without keys may be called, beside its addresses. Repeatable.",
        ),
        database_option,
        click.option(
            "--max-requests", type=click.IntRange(1, 100_000), default=256, show_default=True, metavar="N",
            help="Requests that are answered at once, those that wait included; more get 429.",
        ),
        click.option(
            "--request-seconds", type=click.FloatRange(1, 86_400), default=600, show_default=True, metavar="S",
            help="How long a request may take, from its arrival to its end.",
        ),
        click.option(
            "--body-limit", type=click.IntRange(1000, 1_000_000_000), default=10_000_000, show_default=True,
            metavar="BYTES", help="Of a request's body; more gets 413.",
        ),
        click.option(
            "--cors-origin", multiple=True, metavar="ORIGIN",
            help="A web page's origin, https://HOST, whose scripts may call this gateway; or '*'. Repeatable.",
        ),
        click.option("--tls-cert", type=FILE, help="Certificate chain, PEM: the gateway then speaks HTTPS."),
        click.option("--tls-key", type=FILE, help="The certificate's key, PEM, without a password."),
    )  # fmt: skip
    return lambda command: functools.reduce(lambda wrapped, option: option(wrapped), reversed(options), command)
