"""Stored responses of `/v1/responses`, and the conversations that they make by naming the one before."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Connection, Row, delete, func, select

from gateway.store.database import Database
from gateway.store.tables import RESPONSES
from shared.errors import InvalidRequest

ID_LIMIT = 80
KEPT_S = 30 * 86400  # as OpenAI keeps them
SIZE_LIMIT_BYTES = 16_000_000  # of one response with its input: a body's limit, and an answer beside it
OWNER_LIMIT_BYTES = 1_000_000_000  # of all that one key has stored: the oldest go first
BATCH = 100  # rows that are deleted at once: SQLite has one writer at a time, and a row may be large
HISTORY_LIMIT = 1000
HISTORY_LIMIT_BYTES = 64_000_000


@dataclass(frozen=True, slots=True)
class StoredResponse:
    """A response as it was given, and the items that were its input. `owner` is the id of its caller's key.

    `size_bytes` is told of one that has been read.
    """

    id: str
    owner: str
    created_at: int
    model: str
    previous: str | None
    body: dict[str, Any]
    input: list[dict[str, Any]]
    size_bytes: int = field(default=0, compare=False)


class ResponseStore:
    """Responses by id; each is seen by its owner alone. Every method raises StoreUnavailable."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def put(self, response: StoredResponse) -> None:
        """Its owner's oldest responses make room for it. Raises InvalidRequest where it is too large to be stored."""
        await self._database.run(lambda connection: _put(connection, response))

    async def get(self, id: str, owner: str) -> StoredResponse | None:
        """None where this owner has none of this id."""
        return await self._database.run(lambda connection: _get(connection, id, owner))

    async def delete(self, id: str, owner: str) -> bool:
        """Whether there was one. Those that came after it stay, but cannot be continued any more."""
        if not _may_be_an_id(id):
            return False
        chosen = delete(RESPONSES).where(RESPONSES.c.id == id, RESPONSES.c.owner == owner)
        return bool(await self._database.run(lambda connection: connection.execute(chosen).rowcount))

    async def history(self, id: str, owner: str, limit: int = HISTORY_LIMIT) -> list[StoredResponse]:
        """The conversation up to and with `id`, oldest first.

        Raises InvalidRequest where a part of it is not stored (any more), or it is over a limit.
        """
        return await self._database.run(lambda connection: _history(connection, id, owner, limit))

    async def prune(self) -> int:
        """Delete what is too old. Returns how many."""
        before, pruned = int(time.time()) - KEPT_S, 0
        while count := await self._database.run(lambda connection: _delete_older(connection, before)):
            pruned += count
        return pruned


def _put(connection: Connection, response: StoredResponse) -> None:
    body = json.dumps(response.body)
    items = _written(response.input, SIZE_LIMIT_BYTES - len(body))
    size = len(body) + len(items)
    _make_room(connection, response.owner, size)
    columns = {name: getattr(response, name) for name in ("id", "owner", "created_at", "model", "previous")}
    connection.execute(RESPONSES.insert().values(**columns, size=size, body=body, input=items))


def _written(items: Iterable[dict[str, Any]], limit_bytes: int) -> str:
    """The items as JSON, no more of it than may be: items that are small by themselves may be too large together."""
    written: list[str] = []
    size = len("[]")
    rest = iter(items)
    while size <= limit_bytes:
        item = next(rest, None)
        if item is None:
            return f"[{', '.join(written)}]"
        written.append(json.dumps(item))
        size += len(written[-1]) + len(", ")
    reason = f"this response would take over {SIZE_LIMIT_BYTES} bytes, too many to be stored: pass store=false"
    raise InvalidRequest(reason, "store")


def _make_room(connection: Connection, owner: str, size: int) -> None:
    """For so many bytes more: the owner's oldest responses go where there would be too many."""
    kept = connection.execute(select(func.sum(RESPONSES.c.size)).where(RESPONSES.c.owner == owner)).scalar() or 0
    over = int(kept) + size - OWNER_LIMIT_BYTES
    if over <= 0:
        return
    oldest = select(RESPONSES.c.id, RESPONSES.c.size).where(RESPONSES.c.owner == owner)
    going: list[str] = []
    for row in connection.execute(oldest.order_by(RESPONSES.c.created_at, RESPONSES.c.id)):
        going.append(row.id)
        over -= row.size
        if over <= 0:
            break
    _delete(connection, going)


def _delete(connection: Connection, ids: list[str]) -> None:
    for first in range(0, len(ids), BATCH):
        connection.execute(delete(RESPONSES).where(RESPONSES.c.id.in_(ids[first : first + BATCH])))


def _delete_older(connection: Connection, before: int) -> int:
    """Some of those made before that time. Nothing is written, and so nobody kept waiting, where there are none."""
    old = select(RESPONSES.c.id).where(RESPONSES.c.created_at < before).limit(BATCH)
    ids = [row.id for row in connection.execute(old)]
    _delete(connection, ids)
    return len(ids)


def _row(connection: Connection, id: str, owner: str) -> Row[Any] | None:
    if not _may_be_an_id(id):
        return None
    return connection.execute(select(RESPONSES).where(RESPONSES.c.id == id, RESPONSES.c.owner == owner)).first()


def _may_be_an_id(id: str) -> bool:
    """What clients send is no error of the database, such as NUL is to PostgreSQL."""
    return len(id) <= ID_LIMIT and id.isascii() and id.isprintable()


def _get(connection: Connection, id: str, owner: str) -> StoredResponse | None:
    row = _row(connection, id, owner)
    return None if row is None else _response(row)


def _response(row: Row[Any]) -> StoredResponse:
    return StoredResponse(
        row.id,
        row.owner,
        row.created_at,
        row.model,
        row.previous,
        json.loads(row.body),
        json.loads(row.input),
        row.size,
    )


def _history(connection: Connection, id: str, owner: str, limit: int) -> list[StoredResponse]:
    told: list[StoredResponse] = []
    size = 0
    wanted: str | None = id
    while wanted:
        row = _row(connection, wanted, owner)
        if row is None:
            raise _not_found(wanted)
        size += row.size
        if len(told) == limit or size > HISTORY_LIMIT_BYTES:
            reason = f"the conversation is too long: over {limit} responses, or {HISTORY_LIMIT_BYTES} bytes; begin anew"
            raise InvalidRequest(reason, "previous_response_id")
        told.append(_response(row))
        wanted = row.previous
    return told[::-1]


def _not_found(id: str) -> InvalidRequest:
    reason = f"the response {id[:80]!r} is not stored here: responses are kept for 30 days, unless store was false"
    return InvalidRequest(reason, "previous_response_id", "previous_response_not_found")
