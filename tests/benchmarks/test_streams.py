"""What a stream under faults came to, from an endpoint that speaks over a real connection."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from benchmarks import streams
from benchmarks.client import Endpoint
from benchmarks.prompts import Prompt
from benchmarks.streams import Request, Stream, run_stream

REQUEST = Request(Prompt([], 3), tokens=4)


def event(*ids: int, finish: str | None = None, **more: object) -> str:
    choice = {"index": 0, "delta": {}, "finish_reason": finish, "token_ids": ids}
    return f"data: {json.dumps({'choices': [choice], **more})}\n\n"


@asynccontextmanager
async def endpoint(*events: str, hangs: bool = False) -> AsyncIterator[Endpoint]:
    """Answers whatever it is asked with these events, and then keeps the stream alive with comments if it hangs."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n")
        writer.write("".join(events).encode())
        while hangs and not writer.is_closing():
            writer.write(b": still here\n\n")
            await asyncio.sleep(0.01)
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with Endpoint(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}") as opened:
        yield opened
    server.close()


async def outcome(*events: str, hangs: bool = False) -> Stream:
    async with endpoint(*events, hangs=hangs) as opened:
        return await run_stream(opened, 0, REQUEST)


async def test_a_whole_stream_has_all_ids_in_order() -> None:
    found = await outcome(event(prompt_token_ids=[1, 2, 3]), event(4, 5), event(6, finish="stop"))
    assert (found.end, found.prompt_ids, found.ids) == ("whole", [1, 2, 3], [4, 5, 6])
    assert len(found.arrivals) == 2


async def test_an_error_event_ends_a_stream_with_its_message() -> None:
    found = await outcome(event(4), 'data: {"error": {"message": "a peer failed"}}\n\n')
    assert (found.end, found.ids) == ("error", [4])
    assert "a peer failed" in found.reason


async def test_a_stream_without_an_end_is_an_error() -> None:
    assert (await outcome(event(4))).end == "error"


async def test_a_stream_that_only_comments_hangs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams, "SILENCE_S", 0.2)
    assert (await outcome(event(4), hangs=True)).end == "hung"
