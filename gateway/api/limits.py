"""How much a key may ask for in a minute. Each gateway counts for itself, in memory."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

from starlette.types import ASGIApp, Receive, Scope, Send

from gateway.api.caller import Caller, caller_in
from gateway.api.running import asks_for_work
from shared.errors import RateLimited

KEPT = 10_000  # allowances; beyond that those which are full again are forgotten
MINUTE_S = 60
RATE_HEADERS = tuple(
    f"x-ratelimit-{what}-{of}" for of in ("requests", "tokens") for what in ("limit", "remaining", "reset")
)


class Bucket:
    """A token bucket: it holds a minute's allowance, and fills steadily. It may be overdrawn; that is waited off."""

    def __init__(self, per_minute: int, clock: Callable[[], float]) -> None:
        self.per_minute = per_minute
        self._clock = clock
        self._level = float(per_minute)
        self._at = clock()

    def take(self, amount: float) -> None:
        """Even if it does not hold so much."""
        self._level = self._now() - amount

    @property
    def remaining(self) -> int:
        return max(0, math.floor(self._now()))

    def until_s(self, level: float) -> float:
        """Seconds until it holds so much, if nothing is taken."""
        return max(0.0, (level - self._now()) * MINUTE_S / self.per_minute)

    @property
    def reset_s(self) -> float:
        """Seconds until it is full."""
        return self.until_s(self.per_minute)

    def _now(self) -> float:
        now = self._clock()
        self._level = min(self.per_minute, self._level + (now - self._at) * self.per_minute / MINUTE_S)
        self._at = now
        return self._level


class Allowance:
    """What one key may still ask for. A request is taken when it is let in, a token when it is used."""

    def __init__(self, caller: Caller, clock: Callable[[], float]) -> None:
        self.limits = (caller.requests_per_minute, caller.tokens_per_minute)
        self._requests, self._tokens = (None if limit is None else Bucket(limit, clock) for limit in self.limits)

    def let_in(self) -> None:
        """Take one request. Raises RateLimited where the minute's requests, or tokens, are used up."""
        if self._tokens and not self._tokens.remaining:
            raise RateLimited("tokens", self._tokens.per_minute, self._tokens.until_s(1))
        if self._requests:
            if not self._requests.remaining:
                raise RateLimited("requests", self._requests.per_minute, self._requests.until_s(1))
            self._requests.take(1)

    def use(self, tokens: int) -> None:
        """So many were read or made."""
        if self._tokens:
            self._tokens.take(tokens)

    @property
    def is_full(self) -> bool:
        return not any(bucket.reset_s for bucket in (self._requests, self._tokens) if bucket)

    def headers(self) -> dict[str, str]:
        """OpenAI's `x-ratelimit-*`."""
        told: dict[str, str] = {}
        for name, bucket in (("requests", self._requests), ("tokens", self._tokens)):
            if bucket:
                told[f"x-ratelimit-limit-{name}"] = str(bucket.per_minute)
                told[f"x-ratelimit-remaining-{name}"] = str(bucket.remaining)
                told[f"x-ratelimit-reset-{name}"] = duration(bucket.reset_s)
        return told


class Allowances:
    """Those of all callers who have limits. `clock` gives seconds."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._of: dict[str, Allowance] = {}

    def of(self, caller: Caller) -> Allowance:
        """The caller's own, a new one when the key's limits have changed."""
        kept = self._of.get(caller.id)
        if kept is None or kept.limits != (caller.requests_per_minute, caller.tokens_per_minute):
            kept = Allowance(caller, self._clock)
            if any(kept.limits):
                self._keep(caller.id, kept)
        return kept

    def _keep(self, caller: str, allowance: Allowance) -> None:
        if len(self._of) >= KEPT:
            self._of = {id: each for id, each in self._of.items() if not each.is_full}
        self._of[caller] = allowance


class RateLimits:
    """ASGI middleware, inside the access check: counts what asks for work. Every answer can tell what is left then."""

    def __init__(self, app: ASGIApp, allowances: Allowances) -> None:
        self._app = app
        self._allowances = allowances

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Raises RateLimited."""
        caller = caller_in(scope)
        if scope["type"] != "http" or not caller.id:
            await self._app(scope, receive, send)
            return
        allowance = self._allowances.of(caller)
        scope["state"]["allowance"] = allowance
        if asks_for_work(scope):
            allowance.let_in()
        await self._app(scope, receive, send)


def rate_headers(scope: Scope) -> dict[str, str]:
    """What an answer to this caller tells of its limits."""
    allowance: Allowance | None = scope.get("state", {}).get("allowance")
    return allowance.headers() if allowance else {}


def duration(seconds: float) -> str:
    """As OpenAI writes it: `120ms`, `1.5s`, `6m0s`."""
    if seconds < 1:
        return f"{math.ceil(seconds * 1000)}ms"
    minutes, rest = divmod(math.ceil(seconds * 100) / 100, MINUTE_S)
    return f"{minutes:.0f}m{rest:g}s" if minutes else f"{rest:g}s"
