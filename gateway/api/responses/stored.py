"""`/v1/responses/{id}`: responses that have been stored, each for its owner alone."""

from __future__ import annotations

from fastapi import Request, Response
from fastapi.responses import JSONResponse

from gateway.api.caller import caller_of
from gateway.api.large_json import json_reply
from gateway.api.responses.history import History
from gateway.api.responses.items import Item
from gateway.store.responses import ResponseStore, StoredResponse
from shared.errors import InvalidRequest, NotStored

PAGE, PAGE_LIMIT = 20, 100


class StoredResponses:
    """Handlers of one stored response. All raise NotStored and StoreUnavailable."""

    def __init__(self, store: ResponseStore) -> None:
        self._store = store

    async def retrieve(self, id: str, request: Request) -> Response:
        if request.query_params.get("stream", "false") != "false":
            reason = "stream: only a response that is made in the background could be streamed later: leave it out"
            raise InvalidRequest(reason, "stream", "unsupported_parameter")
        body = (await self._stored(id, request)).body
        return await json_reply(lambda: body)

    async def delete(self, id: str, request: Request) -> Response:
        if not await self._store.delete(id, caller_of(request).id):
            raise _not_stored(id)
        return JSONResponse({"id": id, "object": "response", "deleted": True})

    async def cancel(self, id: str, request: Request) -> Response:
        stored = await self._stored(id, request)
        reason = f"{stored.id} cannot be cancelled: only responses that are made in the background can"
        raise InvalidRequest(reason, code="not_cancellable")

    async def input_items(self, id: str, request: Request) -> Response:
        """A page of what led to the response, of earlier turns too what is stored still.

        The newest come first unless `order` is asc.
        """
        query = request.query_params
        limit, order = _limit(query.get("limit")), query.get("order", "desc")
        if order not in ("asc", "desc"):
            raise InvalidRequest("order: must be 'asc' or 'desc'", "order")
        stored = await self._stored(id, request)
        past = await History(self._store, caller_of(request).id).still_before(stored.previous)
        items = [*past, *stored.input]
        page = _page(items if order == "asc" else items[::-1], limit, query.get("after"))
        return await json_reply(lambda: page)

    async def _stored(self, id: str, request: Request) -> StoredResponse:
        stored = await self._store.get(id, caller_of(request).id)
        if stored is None:
            raise _not_stored(id)
        return stored


def _not_stored(id: str) -> NotStored:
    return NotStored(f"no response {id[:80]!r} is stored here: they are kept for 30 days, unless store was false")


def _limit(given: str | None) -> int:
    if given is None:
        return PAGE
    if given.isascii() and given.isdecimal() and len(given) <= 3 and 1 <= int(given) <= PAGE_LIMIT:
        return int(given)
    raise InvalidRequest(f"limit: must be a whole number from 1 to {PAGE_LIMIT}", "limit")


def _page(items: list[Item], limit: int, after: str | None) -> Item:
    """`limit` of the items that come after the one of that id."""
    ids = [item["id"] for item in items]
    if after is not None and after not in ids:
        raise InvalidRequest(f"after: this response has no input item {after[:80]!r}", "after")
    begin = 0 if after is None else ids.index(after) + 1
    data = items[begin : begin + limit]
    return {
        "object": "list",
        "data": data,
        "first_id": data[0]["id"] if data else None,
        "last_id": data[-1]["id"] if data else None,
        "has_more": begin + limit < len(items),
    }
