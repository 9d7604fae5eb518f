"""What stands around the API: who may use it, and how much. The order in which a request meets it."""

from __future__ import annotations

from dataclasses import dataclass, field

from fastapi import FastAPI
from starlette.middleware.cors import CORSMiddleware

from gateway.api.access import Access, HostCheck
from gateway.api.boundary import HEADERS, Boundary
from gateway.api.charges import Charges
from gateway.api.deadline import Deadline
from gateway.api.limits import RATE_HEADERS, Allowances, RateLimits
from gateway.api.running import Admittance, RunningRequests
from gateway.store.keyring import KeyRing
from gateway.store.usage import Ledger


@dataclass(frozen=True, slots=True, kw_only=True)
class Edge:
    """How a gateway is guarded. The defaults let everybody in.

    `keys` are asked for where they are given; else `host_names` are those by which the gateway may be called, None for
    any. A request's body must arrive within `body_seconds`, its answer end within `request_seconds`.
    """

    keys: KeyRing | None = None
    host_names: frozenset[str] | None = None
    cors_origins: tuple[str, ...] = ()
    max_requests: int = 256
    body_limit_bytes: int = 10_000_000
    body_seconds: float = 60
    request_seconds: float = 600
    ledger: Ledger = field(default_factory=Ledger)
    allowances: Allowances = field(default_factory=Allowances)

    def charges(self) -> Charges:
        """Where callers are charged for what they use."""
        return Charges(self.allowances, self.ledger)

    def surround(self, app: FastAPI, running: RunningRequests) -> None:
        """A request meets the last one first."""
        app.add_middleware(Deadline, seconds=self.request_seconds)
        app.add_middleware(Admittance, running=running)
        app.add_middleware(RateLimits, allowances=self.allowances)
        app.add_middleware(Access, keys=self.keys)
        if self.host_names is not None:
            app.add_middleware(HostCheck, names=self.host_names)
        app.add_middleware(Boundary)
        if self.cors_origins:  # outside the rest: a preflight carries no key, and a page must be able to read errors
            app.add_middleware(
                CORSMiddleware,
                allow_origins=self.cors_origins,
                allow_methods=("GET", "POST", "DELETE"),
                allow_headers=("*",),
                expose_headers=(*HEADERS, *RATE_HEADERS, "retry-after"),
            )
