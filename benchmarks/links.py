"""Echo round trips over one link between two processes: `python -m benchmarks.links [--json FILE]`."""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import os
import socket
import statistics
import time
from multiprocessing.connection import Connection
from pathlib import Path

import uvloop

from shared.handshake import Listener, dial
from shared.identity import Identity
from shared.links import Handler, Link
from shared.types import PeerId
from shared.wire import PAYLOAD_LIMIT, WINDOW_BYTES, AnyMessage, Detach

SESSION = "0" * 32
SIZES = {4096: 400, 16384: 400, 1 << 20: 40, 32 << 20: 9}


class Echo:
    """Sends each frame back as it comes."""

    def received(self, link: Link, message: AnyMessage, payload: memoryview) -> None:
        link.send(message, payload)

    def lost(self, link: Link, reason: str) -> None:
        pass


class Counter:
    """Counts the bytes that come back."""

    def __init__(self) -> None:
        self.bytes = 0
        self.arrived = asyncio.Event()

    def received(self, link: Link, message: AnyMessage, payload: memoryview) -> None:
        self.bytes += len(payload)
        self.arrived.set()

    def lost(self, link: Link, reason: str) -> None:
        raise SystemExit(f"the link was lost: {reason}")

    async def reach(self, total: int) -> None:
        while self.bytes < total:
            self.arrived.clear()
            await self.arrived.wait()


def echo_process(seed: bytes, pipe: Connection) -> None:
    async def serve() -> None:
        def handler(link: Link) -> Handler:
            return Echo()

        listener = Listener(Identity.from_seed(seed), "bench", handler)
        await listener.start(socket.create_server(("127.0.0.1", 0)))
        pipe.send(listener.port)
        await asyncio.get_running_loop().run_in_executor(None, pipe.poll, None)

    uvloop.run(serve())


async def measure(peer: PeerId, port: int) -> list[dict[str, float]]:
    link = await dial("127.0.0.1", port, to=peer, identity=Identity.create(), swarm="bench", role="data")
    counter = Counter()
    link.start(counter)
    return [await round_trips(link, counter, size, count) for size, count in SIZES.items()]


async def round_trips(link: Link, counter: Counter, size: int, count: int) -> dict[str, float]:
    frame = os.urandom(min(size, PAYLOAD_LIMIT))
    times = []
    for _ in range(count):
        started = time.perf_counter()
        target = counter.bytes + size
        for sent in range(0, size, len(frame)):
            await counter.reach(target - size + max(0, sent + len(frame) - WINDOW_BYTES))
            link.send(Detach(session=SESSION), frame)
        await counter.reach(target)
        times.append(time.perf_counter() - started)
    median = statistics.median(times[1:])
    return {"bytes": size, "ms": 1e3 * median, "mb_per_s": 2 * size / median / 1e6}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, help="write the figures here too")
    arguments = parser.parse_args()
    seed = os.urandom(32)
    here, there = multiprocessing.Pipe()
    process = multiprocessing.get_context("spawn").Process(target=echo_process, args=(seed, there), daemon=True)
    process.start()
    rows = uvloop.run(measure(Identity.from_seed(seed).peer, here.recv()))
    process.terminate()
    print(f"{'bytes':>10} {'round trip':>12} {'both ways':>12}")
    for row in rows:
        print(f"{row['bytes']:>10,} {row['ms']:>9.3f} ms {row['mb_per_s']:>7.0f} MB/s")
    print(json.dumps({"links": rows}))
    if arguments.json:
        arguments.json.write_text(json.dumps({"links": rows}, indent=1))


if __name__ == "__main__":
    main()
