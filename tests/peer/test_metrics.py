"""A peer's counters, the page that shows them, and its line a minute."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest
from prometheus_client import CollectorRegistry

from peer.metrics import Holdings, PeerMetrics, Work
from peer.metrics_page import CONNECTIONS_LIMIT, REQUEST_LIMIT, MetricsPage
from peer.scheduler import Forward
from peer.status import status_line, tell_status
from shared.links import Traffic
from tests.documented_metrics import documented, exposed
from tests.swarm import Node, free_port
from tests.tiny_models import make_tiny_model

DEADLINE_S = 10


@pytest.fixture
def registry() -> CollectorRegistry:
    return CollectorRegistry()


@pytest.fixture
def metrics(registry: CollectorRegistry) -> PeerMetrics:
    return PeerMetrics(registry, lambda: Holdings(3, 5, 1000, 880, 100, 88), Traffic(sent_bytes=7, received_bytes=9))


def test_every_metric_is_documented_and_every_documented_one_is_there(
    metrics: PeerMetrics, registry: CollectorRegistry
) -> None:
    assert exposed(registry) == documented("Peer")


def test_forwards_add_up(metrics: PeerMetrics, registry: CollectorRegistry) -> None:
    metrics.forward(Forward(sessions=3, decode_tokens=2, prefill_tokens=100, seconds=0.25, queued_s=0.0))
    metrics.forward(Forward(sessions=2, decode_tokens=4, prefill_tokens=0, seconds=0.5, queued_s=0.125))
    assert registry.get_sample_value("corolla_peer_forward_seconds_sum") == 0.75
    assert registry.get_sample_value("corolla_peer_forward_sessions_sum") == 5
    assert registry.get_sample_value("corolla_peer_tokens_total", {"work": "decode"}) == 6
    assert registry.get_sample_value("corolla_peer_tokens_total", {"work": "prefill"}) == 100
    assert registry.get_sample_value("corolla_peer_queue_seconds_sum") == 0.125


def test_what_is_held_now_is_read_when_it_is_asked_for(metrics: PeerMetrics, registry: CollectorRegistry) -> None:
    names = ("sessions", "queue_length", "cache_bytes", "cache_free_bytes", "cache_tokens", "cache_free_tokens")
    assert [registry.get_sample_value(f"corolla_peer_{name}") for name in names] == [3, 5, 1000, 880, 100, 88]
    assert registry.get_sample_value("corolla_peer_wire_bytes_total", {"direction": "in"}) == 9
    metrics.holdings = Holdings
    assert registry.get_sample_value("corolla_peer_sessions") == 0


@pytest.mark.parametrize(
    ("done", "line"),
    [
        (Work(), ""),
        (Work(0, 0, 7200), "3 sessions, 120 tokens/s of prompts, cache 12 % used"),
        (Work(911, 2460, 0), "3 sessions, 41 tokens/s decoded in batches of 2.7, cache 12 % used"),
        (
            Work(30, 30, 60),
            "3 sessions, 0.5 tokens/s decoded in batches of 1.0, 1.0 tokens/s of prompts, cache 12 % used",
        ),
    ],
)
def test_the_line_says_what_was_done_and_nothing_when_idle(done: Work, line: str) -> None:
    assert status_line(Holdings(3, 0, 1000, 880), done, 60) == line


def test_one_session_is_one() -> None:
    assert status_line(Holdings(sessions=1), Work(1, 1, 0), 60).startswith("1 session, ")


class Heard(logging.Handler):
    """Waits for log lines."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: asyncio.Queue[str] = asyncio.Queue()

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.put_nowait(record.getMessage())


async def test_each_minute_tells_only_of_itself(metrics: PeerMetrics, caplog: pytest.LogCaptureFixture) -> None:
    heard = Heard()
    logger = logging.getLogger("peer.status")
    caplog.set_level(logging.INFO, "peer.status")
    logger.addHandler(heard)
    telling = asyncio.create_task(tell_status(metrics, every_s=0.01))
    try:
        metrics.forward(Forward(2, 2, 0, 0.1, 0.0))  # before the task runs: done already
        async with asyncio.timeout(DEADLINE_S):
            await asyncio.sleep(0)
            metrics.forward(Forward(4, 4, 0, 0.1, 0.0))
            assert "400 tokens/s decoded in batches of 4.0" in await heard.lines.get()
            metrics.forward(Forward(1, 0, 5, 0.1, 0.0))
            assert "500 tokens/s of prompts" in await heard.lines.get()
    finally:
        telling.cancel()
        logger.removeHandler(heard)


@pytest.fixture
async def port(metrics: PeerMetrics, registry: CollectorRegistry) -> AsyncIterator[int]:
    """A page that is served."""
    listening = socket.create_server(("127.0.0.1", 0))
    serving = asyncio.create_task(MetricsPage(registry, listening).run())
    yield listening.getsockname()[1]
    serving.cancel()
    await asyncio.wait({serving}, timeout=1)
    assert serving.cancelled()


async def test_the_page_is_prometheus_text(port: int) -> None:
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as client:
        page = await client.get("/metrics")
        assert page.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
        assert "\ncorolla_peer_sessions 3.0\n" in page.text
        assert "_created" not in page.text
        assert (await client.get("/")).status_code == 404
        assert (await client.post("/metrics")).status_code == 405


@pytest.mark.parametrize("request_", [b"x" * (REQUEST_LIMIT + 1), b"\r\n\r\n", b"\xff\x00 \x00\r\n\r\n", b"GET"])
async def test_what_is_no_request_ends_its_connection_alone(port: int, request_: bytes) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(request_)
    writer.write_eof()
    async with asyncio.timeout(2):
        answer = await reader.read()
    assert not answer.startswith(b"HTTP/1.1 200")
    writer.close()
    async with httpx.AsyncClient() as client:
        assert (await client.get(f"http://127.0.0.1:{port}/metrics")).status_code == 200


async def test_idle_connections_neither_pile_up_nor_hold_up_the_end(port: int) -> None:
    idle = [await asyncio.open_connection("127.0.0.1", port) for _ in range(CONNECTIONS_LIMIT)]
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    async with asyncio.timeout(2):
        assert await reader.read() == b""  # one too many
    for _, each in (*idle, (reader, writer)):
        each.close()


@pytest.mark.slow
def test_a_running_peer_shows_its_cache(tmp_path: Path) -> None:
    model, port = make_tiny_model(tmp_path / "model", blocks=2), str(free_port())
    folders = ("--state-dir", tmp_path / "state", "--cache-dir", tmp_path / "cache")
    flags = ("--listen", "127.0.0.1", "--swarm", "metrics", "--cache-tokens", "1000", "--metrics-port", port)
    node = Node("peer", "start", "--model", model, "--blocks", "0:2", *flags, *folders)
    try:
        node.ready()
        page = httpx.get(f"http://127.0.0.1:{port}/metrics").text
    finally:
        assert node.stop() == 0
    assert "\ncorolla_peer_cache_free_tokens 1000.0\n" in page
