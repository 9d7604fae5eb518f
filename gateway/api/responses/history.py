"""What went before a response: the stored turns that it continues, and the items that it refers to."""

from __future__ import annotations

from collections.abc import Sequence

from gateway.api.responses.items import Item, ItemIds, response_of
from gateway.store.responses import HISTORY_LIMIT, HISTORY_LIMIT_BYTES, ResponseStore, StoredResponse
from shared.errors import InvalidRequest

REFERENCES = 256  # as many stored responses may be read for the items of one input
REFERRED_BYTES = 64_000_000  # and so much of them


class History:
    """The stored responses of one caller."""

    def __init__(self, store: ResponseStore, owner: str) -> None:
        self._store = store
        self._owner = owner

    async def before(self, previous: str | None) -> list[Item]:
        """Inputs and outputs up to and with that response, oldest first. Raises InvalidRequest, StoreUnavailable."""
        if previous is None:
            return []
        turns = await self._store.history(previous, self._owner)
        if turns[-1].body["status"] == "failed":
            reason = f"the response {previous} has failed: continue the one before it"
            raise InvalidRequest(reason, "previous_response_id")
        return [item for turn in turns for item in _items(turn)]

    async def still_before(self, previous: str | None) -> list[Item]:
        """The same for one that is only to be read: of the turns just before it those that are stored still.

        Raises StoreUnavailable.
        """
        turns: list[StoredResponse] = []
        size = 0
        while previous and len(turns) < HISTORY_LIMIT and (turn := await self._store.get(previous, self._owner)):
            size += turn.size_bytes
            if size > HISTORY_LIMIT_BYTES:
                break
            turns.append(turn)
            previous = turn.previous
        return [item for turn in reversed(turns) for item in _items(turn)]

    async def resolved(self, items: Sequence[Item], past: Sequence[Item], ids: ItemIds) -> list[Item]:
        """The items, with what they refer to in its place, and ids for those that have none.

        What they refer to is in any stored response. None may be told twice: neither one of the `past` nor one that
        came before it. Raises InvalidRequest, StoreUnavailable.
        """
        references = _References(self._store, self._owner)
        told = {item["id"] for item in past}
        whole: list[Item] = []
        for place, item in enumerate(items):
            id = item.get("id") or ids.new(item["type"])
            if id in told:
                reason = f"input[{place}].id: the item {id!r} is in the conversation already: leave it out here"
                raise InvalidRequest(reason, f"input[{place}].id")
            told.add(id)
            refers = item["type"] == "item_reference"
            whole.append(await references.take(id, f"input[{place}]") if refers else {"id": id, **item})
        return whole


class _References:
    """What the items of one input refer to, each to another item: a few words could else become gigabytes."""

    def __init__(self, store: ResponseStore, owner: str) -> None:
        self._store = store
        self._owner = owner
        self._known: dict[str, Item] = {}
        self._read: set[str] = set()
        self._read_bytes = 0

    async def take(self, id: str, path: str) -> Item:
        """The item of that id, for the reference at `path`. Raises InvalidRequest, StoreUnavailable."""
        if id not in self._known and response_of(id) not in self._read:
            await self._read_response(response_of(id))
        if id not in self._known:
            reason = f"{path}: the item {id!r} is not stored here: send the item itself (store=false keeps nothing)"
            raise InvalidRequest(reason, path, "item_not_found")
        return self._known[id]

    async def _read_response(self, response: str) -> None:
        self._read.add(response)
        if len(self._read) > REFERENCES:
            reason = f"input: refers to items of more than {REFERENCES} responses: send the items themselves"
            raise InvalidRequest(reason, "input")
        stored = await self._store.get(response, self._owner)
        if stored is None:
            return
        self._read_bytes += stored.size_bytes
        if self._read_bytes > REFERRED_BYTES:
            reason = f"input: refers to items of responses of over {REFERRED_BYTES} bytes: send the items themselves"
            raise InvalidRequest(reason, "input")
        self._known |= {item["id"]: item for item in _items(stored)}


def _items(turn: StoredResponse) -> list[Item]:
    return [*turn.input, *turn.body["output"]]
