"""`gateway keys`: makes, lists and revokes the keys of a gateway's callers, while it runs or not."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from gateway.options import database_option
from shared.errors import CorollaError
from shared.options import ENVIRONMENT, FOLDER, default_state_dir

if TYPE_CHECKING:
    from gateway.store.keys import Key
    from gateway.store.store import Store
    from gateway.store.usage import Used

Result = TypeVar("Result")

DAYS = 30
NAME_LIMIT = 200
LIMIT = click.IntRange(1, 1_000_000_000)


@click.group(context_settings=ENVIRONMENT)
def keys() -> None:
    """Make, list and revoke the keys by which callers are known."""


def _store_options(command: Callable[..., None]) -> Callable[..., None]:
    state_dir = click.option(
        "--state-dir", type=FOLDER, default=default_state_dir("gateway"), show_default=True, help="The gateway's."
    )
    return state_dir(database_option(command))


def _check_name(_context: click.Context, _option: click.Parameter, name: str) -> str:
    if len(name) > NAME_LIMIT or not name.isprintable():
        raise click.BadParameter(f"a name has at most {NAME_LIMIT} letters that can be printed")
    return name


@keys.command(context_settings=ENVIRONMENT)
@click.option("--name", default="", callback=_check_name, allow_from_autoenv=False, help="Whose key it is, for lists.")
@click.option(
    "--requests-per-minute", type=LIMIT, allow_from_autoenv=False, metavar="N", help="More get 429.  [default: any]"
)
@click.option(
    "--tokens-per-minute", type=LIMIT, allow_from_autoenv=False, metavar="N",
    help="Read and made; more gets 429.  [default: any]",
)  # fmt: skip
@_store_options
def create(
    name: str,
    requests_per_minute: int | None,
    tokens_per_minute: int | None,
    state_dir: Path,
    database: str | None,
) -> None:
    """Make a key. It is printed once, on stdout, and cannot be shown again."""
    key, secret = _within(
        lambda store: store.keys.create(name, requests_per_minute, tokens_per_minute), state_dir, database
    )
    click.echo(f"{key.id} is made: keep the key, it is not shown again", err=True)
    click.echo(secret)


@keys.command("list", context_settings=ENVIRONMENT)
@_store_options
def list_keys(state_dir: Path, database: str | None) -> None:
    """All keys, with their limits a minute and what each has used in 30 days."""
    today = datetime.now(UTC).date()

    async def read(store: Store) -> tuple[list[Key], dict[str, Used]]:
        return await store.keys.all(), await store.usage.by_key(today - timedelta(DAYS - 1))

    known, used = _within(read, state_dir, database)
    titles = ("ID", "KEY", "CREATED", "STATE", "REQUESTS/MIN", "TOKENS/MIN", "REQUESTS", "TOKENS", "NAME")
    _print(titles, [_row(key, used.get(key.id)) for key in known])


@keys.command(context_settings=ENVIRONMENT)
@click.option("--days", type=click.IntRange(1, 3660), default=DAYS, show_default=True, allow_from_autoenv=False)
@_store_options
def usage(days: int, state_dir: Path, database: str | None) -> None:
    """What each key has used, by day (of UTC) and model. A running gateway adds to it every few seconds."""
    first = datetime.now(UTC).date() - timedelta(days - 1)
    used = _within(lambda store: store.usage.since(first), state_dir, database)
    titles = ("DAY", "ID", "REQUESTS", "PROMPT TOKENS", "COMPLETION TOKENS", "MODEL")
    _print(
        titles,
        [
            (str(of.day), of.key, str(it.requests), str(it.prompt_tokens), str(it.completion_tokens), of.model)
            for of, it in sorted(used.items(), key=lambda each: (each[0].day, each[0]))
        ],
    )


@keys.command(context_settings=ENVIRONMENT)
@click.argument("id")
@_store_options
def revoke(id: str, state_dir: Path, database: str | None) -> None:
    """End the key ID, as `gateway keys list` shows it, for good. A running gateway follows within a second."""
    if not _within(lambda store: store.keys.revoke(id), state_dir, database):
        raise click.ClickException(f"there is no key {id!r} that can be used: gateway keys list shows all")
    click.echo(f"{id} is revoked", err=True)


def _within(work: Callable[[Store], Coroutine[Any, Any, Result]], state_dir: Path, database: str | None) -> Result:
    """What `work` returns. The gateway itself need not run, and may."""
    from gateway.store.store import Store  # SQLAlchemy takes tenths of a second: --help should not wait for it

    async def main() -> Result:
        store = Store.open(database, state_dir)
        try:
            return await work(store)
        finally:
            store.close()

    try:
        return asyncio.run(main())
    except CorollaError as error:
        raise click.ClickException(str(error)) from error


def _row(key: Key, used: Used | None) -> tuple[str, ...]:
    created = datetime.fromtimestamp(key.created_at, UTC).strftime("%Y-%m-%d")
    limits = ("-" if limit is None else str(limit) for limit in (key.requests_per_minute, key.tokens_per_minute))
    counts = (used.requests, used.prompt_tokens + used.completion_tokens) if used else (0, 0)
    state = "revoked" if key.revoked_at else "live"
    return (key.id, f"{key.prefix}…", created, state, *limits, *map(str, counts), key.name)


def _print(titles: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Columns as wide as what is in them."""
    table = [titles, *rows]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    for row in table:
        click.echo("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
