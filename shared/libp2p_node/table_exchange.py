"""The table protocol: a late joiner asks its neighbours for all that they know, page by page.

One stream for each page. Request and page are a u32 length (big-endian) and msgpack. A page has the records, as they
were signed, of the peers after `after` in the order of peer IDs, each with its age in seconds.
"""

from __future__ import annotations

import struct
from collections.abc import AsyncIterator, Callable
from typing import Annotated, TypeVar

import msgspec
import trio
from libp2p.abc import IHost, INetStream
from libp2p.custom_types import TProtocol
from libp2p.peer.id import ID
from msgspec import Meta

from shared.announcement import RECORD_LIMIT, TTL_LIMIT_S
from shared.errors import FrameError
from shared.libp2p_node.allowance import Allowance
from shared.libp2p_node.containment import quietly
from shared.types import PeerId

LENGTH = struct.Struct(">I")
REQUEST_LIMIT = 256
PAGE_LIMIT = 256 * 1024
PAGE_RECORDS = 1024
OVERHEAD_BYTES = 16
"""What encoding adds to a record, at most."""
PAGES_LIMIT = 256
DEADLINE_S = 5.0
SERVED_AT_ONCE = 8
PAGES_PER_S = 2
PAGES_BURST = PAGES_LIMIT

T = TypeVar("T")
Record = Annotated[bytes, Meta(max_length=RECORD_LIMIT)]
Age = Annotated[float, Meta(ge=0, le=TTL_LIMIT_S)]
Known = list[tuple[PeerId, bytes, float]]


class Request(msgspec.Struct, frozen=True):
    """Records of the peers after this one."""

    after: Annotated[str, Meta(max_length=64)] = ""


class Page(msgspec.Struct, frozen=True):
    """Records with their ages, s; `last` is the peer to continue after, empty at the end."""

    records: Annotated[tuple[tuple[Record, Age], ...], Meta(max_length=PAGE_RECORDS)]
    last: Annotated[str, Meta(max_length=64)] = ""


def protocol(swarm: str) -> TProtocol:
    return TProtocol(f"/corolla/table/1/{swarm}")


class TableServer:
    """Answers with what `known()` gives: (peer, record, age in s), by peer ID."""

    def __init__(self, host: IHost, swarm: str, known: Callable[[], Known]) -> None:
        self._known = known
        self._serving = 0
        self._allowance = Allowance(PAGES_PER_S, PAGES_BURST, trio.current_time)
        host.set_stream_handler(protocol(swarm), self._serve)

    async def _serve(self, stream: INetStream) -> None:
        """Raises whatever a client can bring about: the host resets the stream then."""
        if self._serving >= SERVED_AT_ONCE or not self._allowance.take(str(stream.muxed_conn.peer_id)):
            await stream.reset()
            return
        self._serving += 1
        try:
            with trio.fail_after(DEADLINE_S):
                request = await _read(stream, REQUEST_LIMIT, Request)
                await _write(stream, page_after(request.after, self._known()))
                await stream.close()
        finally:
            self._serving -= 1


def page_after(after: str, known: Known) -> Page:
    """As much as fits into one page."""
    records: list[tuple[bytes, float]] = []
    left, last = PAGE_LIMIT - REQUEST_LIMIT, ""
    for peer, record, age_s in known:
        if peer <= after:
            continue
        left -= len(record) + OVERHEAD_BYTES
        if left < 0 or len(records) == PAGE_RECORDS:
            return Page(tuple(records), last)
        records.append((record, min(age_s, TTL_LIMIT_S)))
        last = peer
    return Page(tuple(records))


async def ask(host: IHost, swarm: str, peer: PeerId) -> AsyncIterator[tuple[bytes, float]]:
    """All that `peer` tells: records, unchecked, with ages in s. Raises FrameError, TooSlowError, libp2p's errors."""
    after = ""
    for _ in range(PAGES_LIMIT):
        page = await _ask_page(host, swarm, peer, after)
        for record in page.records:
            yield record
        if page.last <= after:
            return
        after = page.last


async def _ask_page(host: IHost, swarm: str, peer: PeerId, after: str) -> Page:
    with trio.fail_after(DEADLINE_S):
        stream = await host.new_stream(ID.from_string(peer), [protocol(swarm)])
        try:
            await _write(stream, Request(after))
            return await _read(stream, PAGE_LIMIT, Page)
        finally:
            await quietly(stream.reset)


async def _write(stream: INetStream, message: msgspec.Struct) -> None:
    payload = msgspec.msgpack.encode(message)
    await stream.write(LENGTH.pack(len(payload)) + payload)


async def _read(stream: INetStream, limit: int, kind: type[T]) -> T:
    (length,) = LENGTH.unpack(await _read_exactly(stream, LENGTH.size))
    if length > limit:
        raise FrameError(f"{length} bytes where at most {limit} are allowed")
    payload = await _read_exactly(stream, length)
    try:
        return msgspec.msgpack.decode(payload, type=kind)
    except (msgspec.DecodeError, ValueError, RecursionError) as error:
        raise FrameError(f"not a {kind.__name__.lower()}: {error}") from error


async def _read_exactly(stream: INetStream, length: int) -> bytes:
    data = bytearray()
    while len(data) < length:
        piece = await stream.read(length - len(data))
        if not piece:
            raise FrameError("the stream ended early")
        data += piece
    return bytes(data)
