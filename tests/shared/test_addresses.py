from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.addresses import (
    Address,
    control_addresses,
    data_addresses,
    join_address,
    listen_host,
    own_addresses,
    own_hosts,
)
from shared.announcement import ADDRESSES_LIMIT
from shared.errors import UsageError
from shared.identity import Identity
from shared.types import PeerId
from tests.shared.announcements import announcement

ANN = Identity.from_seed(b"a" * 32)


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("/ip4/192.0.2.7/tcp/4001", Address("192.0.2.7", 4001)),
        ("/ip4/192.0.2.7/tcp/4002/tls", Address("192.0.2.7", 4002, tls=True)),
        ("/ip6/2001:db8::7/tcp/4001", Address("2001:db8::7", 4001)),
        ("/dns/node.example.org/tcp/4002/tls", Address("node.example.org", 4002, tls=True)),
        (f"/ip4/192.0.2.7/tcp/4001/p2p/{ANN.peer}", Address("192.0.2.7", 4001, peer=ANN.peer)),
    ],
)
def test_the_addresses_that_corolla_uses_are_read_and_written(text: str, address: Address) -> None:
    assert Address.parse(text) == address
    assert str(address) == text


@pytest.mark.parametrize(
    "text",
    [
        "",
        "/",
        "192.0.2.7:4001",
        "/ip4/192.0.2.7",
        "/ip4/192.0.2.7/tcp/0",
        "/ip4/192.0.2.7/tcp/99999",
        "/ip4/192.0.2.700/tcp/1",
        "/ip4/192.0.2.7/udp/4001/quic-v1",
        "/ip4/192.0.2.7/tcp/4001/ws",
        "/tcp/4001/ip4/192.0.2.7",
        f"/p2p/{ANN.peer}",
        "/dns/" + "x" * 200 + "/tcp/1",
        "/ip4/\udc80/tcp/1",
    ],
)
def test_other_addresses_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r".+"):
        Address.parse(text)


@given(st.text(max_size=60) | st.from_regex(r"(/(ip4|ip6|dns|tcp|tls|p2p|unix|quic-v1)(/[!-~]{0,20})?){1,5}"))
def test_any_text_is_an_address_or_a_value_error(text: str) -> None:
    try:
        address = Address.parse(text)
    except ValueError:
        return
    assert Address.parse(str(address)) == address


@pytest.mark.parametrize(
    "text",
    ["192.0.2.7", "/ip4/192.0.2.7/tcp/4001", "/ip4/192.0.2.7/tcp/4001/p2p/12D3KooW", "ftp://example.org", "/x"],
)
def test_a_join_without_a_peer_id_says_what_to_pass(text: str) -> None:
    with pytest.raises(UsageError, match="--join"):
        join_address(text)


def test_a_join_to_data_links_is_refused() -> None:
    with pytest.raises(UsageError, match="/tls"):
        join_address(f"/ip4/192.0.2.7/tcp/4001/tls/p2p/{ANN.peer}")


def test_without_announce_the_interfaces_are_announced_loopback_last() -> None:
    assert own_addresses("127.0.0.1", (), 1, 2) == ("/ip4/127.0.0.1/tcp/1", "/ip4/127.0.0.1/tcp/2/tls")
    assert own_hosts("0.0.0.0")[-1] == "127.0.0.1"
    assert own_hosts("192.0.2.7") == ["192.0.2.7"]
    assert len(own_addresses("0.0.0.0", (), 1, 2)) <= ADDRESSES_LIMIT


@pytest.mark.parametrize(
    ("announce", "addresses"),
    [
        (("node.example.org",), ("/dns/node.example.org/tcp/1", "/dns/node.example.org/tcp/2/tls")),
        (("2001:db8::7",), ("/ip6/2001:db8::7/tcp/1", "/ip6/2001:db8::7/tcp/2/tls")),
        (("/ip4/192.0.2.7/tcp/8/tls", "/ip4/192.0.2.7/tcp/9"), ("/ip4/192.0.2.7/tcp/8/tls", "/ip4/192.0.2.7/tcp/9")),
        (("/ip4/192.0.2.7/tcp/8/tls",), ("/ip4/192.0.2.7/tcp/8/tls", "/ip4/127.0.0.1/tcp/1")),
    ],
)
def test_what_is_given_to_announce_is_announced(announce: tuple[str, ...], addresses: tuple[str, ...]) -> None:
    assert own_addresses("127.0.0.1", announce, 1, 2) == addresses


@pytest.mark.parametrize("text", ["", "a b", "/ip4/192.0.2.7", "host/path", "/ip4/192.0.2.7/udp/1"])
def test_an_announce_that_nobody_could_dial_says_what_to_pass(text: str) -> None:
    with pytest.raises(UsageError, match="--announce"):
        own_addresses("127.0.0.1", (text,), 1, 2)


def test_a_listen_host_is_resolved_or_refused() -> None:
    assert listen_host("0.0.0.0") == "0.0.0.0"
    with pytest.raises(UsageError, match="--listen"):
        listen_host("no host")


def test_addresses_of_an_announcement_are_told_apart_and_unknown_ones_left_out() -> None:
    kinds = ("/ip4/192.0.2.7/tcp/1", "/ip4/192.0.2.7/udp/1/quic-v1", "nonsense", "/dns/a.example/tcp/2/tls")
    said = announcement(ANN, addresses=kinds)
    assert control_addresses(said) == [Address("192.0.2.7", 1, peer=PeerId(ANN.peer))]
    assert data_addresses(said) == [("a.example", 2)]
    assert data_addresses(None) == []
