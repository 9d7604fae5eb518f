"""The line by which a busy peer says each minute what it did."""

from __future__ import annotations

import asyncio
import logging

from peer.metrics import Holdings, PeerMetrics, Work

logger = logging.getLogger(__name__)

STATUS_S = 60.0


async def tell_status(metrics: PeerMetrics, every_s: float = STATUS_S) -> None:
    """Log a line each minute in which something was done; for ever."""
    before = metrics.work.copy()
    while True:
        await asyncio.sleep(every_s)
        done = metrics.work.since(before)
        before = metrics.work.copy()
        if line := status_line(metrics.holdings(), done, every_s):
            logger.info("%s", line)


def status_line(now: Holdings, done: Work, seconds: float) -> str:
    """What was done in so many seconds, and what is held now; nothing for a peer that was idle."""
    rates: list[str] = []
    if done.decodes:
        batch = done.decode_tokens / done.decodes
        rates.append(f"{_rate(done.decode_tokens / seconds)} decoded in batches of {batch:.1f}")
    if done.prefill_tokens:
        rates.append(f"{_rate(done.prefill_tokens / seconds)} of prompts")
    if not rates:
        return ""
    sessions = "1 session" if now.sessions == 1 else f"{now.sessions} sessions"
    return ", ".join((sessions, *rates, f"cache {now.used * 100:.0f} % used"))


def _rate(tokens_per_s: float) -> str:
    return f"{tokens_per_s:.{0 if tokens_per_s >= 10 else 1}f} tokens/s"
