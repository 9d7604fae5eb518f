"""Who may use the gateway: those with a key; or, where none is asked for, programs on this machine."""

from __future__ import annotations

import ipaddress

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from gateway.api.caller import Caller, tell_caller
from gateway.store.keyring import KeyRing
from shared.errors import HostRefused, InvalidKey

OPEN = frozenset(("/", "/health"))  # a page without secrets, and what load balancers and joining peers ask
KEY_LIMIT = 200  # characters


class Access:
    """ASGI middleware. With `keys`, all but OPEN needs one of them; else it tells nobody apart."""

    def __init__(self, app: ASGIApp, keys: KeyRing | None) -> None:
        self._app = app
        self._keys = keys

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Raises InvalidKey, StoreUnavailable."""
        if scope["type"] == "http" and self._keys and scope["path"] not in OPEN:
            tell_caller(scope, await self._caller(self._keys, Headers(scope=scope).get("authorization", "")))
        await self._app(scope, receive, send)

    async def _caller(self, keys: KeyRing, authorization: str) -> Caller:
        scheme, _, secret = authorization.strip().partition(" ")
        secret = secret.strip()
        if scheme.lower() != "bearer" or not secret:
            raise InvalidKey("this gateway needs a key: send the header 'Authorization: Bearer KEY'")
        key = await keys.find(secret) if len(secret) <= KEY_LIMIT else None
        if key is None:
            raise InvalidKey("this key is not valid here, or was revoked: ask whoever runs this gateway for one")
        return Caller(key.id, key.requests_per_minute, key.tokens_per_minute)


class HostCheck:
    """ASGI middleware: answers only those who call the gateway by an address, `localhost` or one of `names`.

    A gateway that asks for no key is for those alone who can reach it. A web page's own name can be made to lead here
    (DNS rebinding), and the browser would let the page read what it gets; but it says in `Host` whom it means. What is
    OPEN holds no secrets, and peers may ask for it by any name.
    """

    def __init__(self, app: ASGIApp, names: frozenset[str]) -> None:
        self._app = app
        self._names = names | {"localhost"}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Raises HostRefused."""
        if scope["type"] == "http" and scope["path"] not in OPEN:
            name = _name(Headers(scope=scope).get("host", ""))
            if not (name in self._names or name.endswith(".localhost") or _is_address(name)):
                raise HostRefused(name)
        await self._app(scope, receive, send)


def _name(host: str) -> str:
    """Without the port; an IPv6 address without its brackets."""
    host = host.strip().lower()
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.partition(":")[0].rstrip(".")


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
