"""Multiaddrs: where a node's control plane (`…/tcp/4001`) and its links (`…/tcp/4002/tls`) are reached."""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import multiaddr
import psutil
from multiaddr.exceptions import Error as MultiaddrError

from shared.announcement import ADDRESS_LENGTH, ADDRESSES_LIMIT, Announcement
from shared.errors import BadIdentity, UsageError
from shared.identity import public_key
from shared.types import PeerId

HOST_PROTOCOLS = ("ip4", "ip6", "dns", "dns4", "dns6")
HOSTS_LIMIT = ADDRESSES_LIMIT // 2


@dataclass(frozen=True, slots=True)
class Address:
    """A parsed multiaddr of one of the two shapes that Corolla uses, maybe ending in `/p2p/ID`."""

    host: str
    port: int
    tls: bool = False
    peer: PeerId | None = None

    @classmethod
    def parse(cls, text: str) -> Address:
        """Raises ValueError for anything else, be it a multiaddr or not."""
        if len(text) > ADDRESS_LENGTH:
            raise ValueError(f"longer than {ADDRESS_LENGTH} characters")
        parts = _parts(text)
        names = [name for name, _ in parts]
        tls, peer = "tls" in names, next((value for name, value in parts if name == "p2p"), None)
        if names[1:] != ["tcp", *["tls"] * tls, *["p2p"] * bool(peer)] or names[0] not in HOST_PROTOCOLS:
            raise ValueError(f"{text!r} is not an address such as /ip4/192.0.2.7/tcp/31330")
        host, port = parts[0][1], int(parts[1][1] or 0)
        if not (host and port):
            raise ValueError(f"{text!r} has no host or no port")
        return cls(host, port, tls, PeerId(peer) if peer else None)

    def __str__(self) -> str:
        tls = "/tls" if self.tls else ""
        peer = f"/p2p/{self.peer}" if self.peer else ""
        return f"/{_host_protocol(self.host)}/{self.host}/tcp/{self.port}{tls}{peer}"


def join_address(text: str) -> Address:
    """A multiaddr given to --join. Raises UsageError."""
    try:
        address = Address.parse(text)
        public_key(address.peer or "")
    except (ValueError, BadIdentity) as error:
        raise UsageError(
            f"--join {text!r} is neither a multiaddr such as /ip4/192.0.2.7/tcp/31330/p2p/12D3Koo… nor a gateway's URL"
        ) from error
    if address.tls:
        raise UsageError(f"--join {text!r} is the address of data links: the one of the control plane has no /tls")
    return address


def own_addresses(listen: str, announce: Sequence[str], p2p_port: int, data_port: int | None) -> tuple[str, ...]:
    """What to announce: the `--announce` addresses, and for a kind of which none is given those of the interfaces.

    Raises UsageError.
    """
    given = [address for each in announce for address in _announced(each, p2p_port, data_port)]
    own = [address for host in own_hosts(listen) for address in _at(host, p2p_port, data_port)]
    addresses = given + [each for each in own if each.tls not in {known.tls for known in given}]
    return tuple(str(each) for each in addresses[:ADDRESSES_LIMIT])


def listen_host(text: str) -> str:
    """The IP address behind `--listen`. Raises UsageError."""
    try:
        return str(socket.getaddrinfo(text, None, type=socket.SOCK_STREAM)[0][4][0])
    except (OSError, UnicodeError) as error:
        raise UsageError(f"--listen {text!r} is no address of this machine: pass 0.0.0.0 for all of them") from error


def own_hosts(listen: str) -> list[str]:
    """The addresses at which others reach a socket bound to `listen`; for all interfaces loopback comes last."""
    if listen not in ("0.0.0.0", "::"):
        return [listen]
    hosts = sorted(set(_interface_hosts(listen)), key=lambda host: (ipaddress.ip_address(host).is_loopback, host))
    return hosts[:HOSTS_LIMIT] or ["127.0.0.1"]


def data_addresses(announcement: Announcement | None) -> list[tuple[str, int]]:
    """Where links to the node are made: (host, port). What cannot be understood is left out."""
    return [(each.host, each.port) for each in _parsed(announcement) if each.tls]


def control_addresses(announcement: Announcement) -> list[Address]:
    """Where the node's control plane is dialled, with its peer ID."""
    return [Address(each.host, each.port, False, announcement.peer) for each in _parsed(announcement) if not each.tls]


def _parsed(announcement: Announcement | None) -> Iterable[Address]:
    for text in announcement.addresses if announcement else ():
        try:
            yield Address.parse(text)
        except ValueError:
            continue  # some later version's kind of address


def _announced(text: str, p2p_port: int, data_port: int | None) -> list[Address]:
    if not text.startswith("/"):
        return _at(text, p2p_port, data_port)
    try:
        return [Address.parse(text)]
    except ValueError as error:
        raise UsageError(
            f"--announce {text!r} is neither a host nor a multiaddr: pass a host name, an IP address, "
            "/ip4/192.0.2.7/tcp/31330 (control) or /ip4/192.0.2.7/tcp/31430/tls (data)"
        ) from error


def _at(host: str, p2p_port: int, data_port: int | None) -> list[Address]:
    try:
        control = Address.parse(str(Address(host, p2p_port)))
    except ValueError as error:
        raise UsageError(f"--announce {host!r} is not a host that others could dial") from error
    return [control, Address(host, data_port, tls=True)] if data_port else [control]


def _interface_hosts(listen: str) -> Iterable[str]:
    families = (socket.AF_INET,) if listen == "0.0.0.0" else (socket.AF_INET, socket.AF_INET6)
    for addresses in psutil.net_if_addrs().values():
        for each in addresses:
            if each.family in families and not ipaddress.ip_address(each.address).is_link_local:
                yield each.address


def _host_protocol(host: str) -> str:
    try:
        return f"ip{ipaddress.ip_address(host).version}"
    except ValueError:
        return "dns"


def _parts(text: str) -> list[tuple[str, str | None]]:
    """Names and values of a multiaddr's protocols. Raises ValueError."""
    try:
        items = list(multiaddr.Multiaddr(text).items())
    except (MultiaddrError, ValueError, UnicodeError) as error:
        raise ValueError(f"{text!r} is not a multiaddr") from error
    if not items:
        raise ValueError("an empty multiaddr")
    return [(protocol.name, value) for protocol, value in items]
