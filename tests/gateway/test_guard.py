"""What the flags of `gateway start` make of the edge, and which are refused."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from gateway import guard
from gateway.__main__ import start
from gateway.settings import GatewaySettings
from gateway.store.store import Store
from shared.errors import UsageError
from tests.certificates import make_certificate


def settings(*flags: str | Path) -> GatewaySettings:
    """What `gateway start` makes of its flags."""
    context = start.make_context("start", [str(flag) for flag in flags])
    return GatewaySettings(**{name: value for name, value in context.params.items() if name != "log_level"})


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    store = Store.open(None, tmp_path)
    yield store
    store.close()


@pytest.mark.parametrize(
    ("flags", "needed"),
    [
        ((), False),
        (("--host", "localhost"), False),
        (("--host", "127.8.8.8"), False),
        (("--host", "::1"), False),
        (("--host", "0.0.0.0"), True),
        (("--host", "192.0.2.1"), True),
        (("--host", "box.lan"), True),
        (("--host", "0.0.0.0", "--no-require-keys"), False),
        (("--require-keys",), True),
    ],
)
def test_keys_are_needed_where_others_can_reach_the_gateway(store: Store, flags: tuple[str, ...], needed: bool):
    given = settings(*flags)
    assert guard.asks_for_keys(given) == needed
    assert bool(guard.edge(given, store).keys) == needed


def test_each_flag_is_a_variable_too(store: Store, monkeypatch: pytest.MonkeyPatch):
    for name, value in {
        "REQUIRE_KEYS": "1", "MAX_REQUESTS": "7", "BODY_LIMIT": "5000", "REQUEST_SECONDS": "9",
        "CORS_ORIGIN": "https://a.example https://b.example:8443",
    }.items():  # fmt: skip
        monkeypatch.setenv(f"COROLLA_{name}", value)
    given = settings()
    guard.check(given)
    edge = guard.edge(given, store)
    assert edge.keys
    assert (edge.max_requests, edge.body_limit_bytes, edge.request_seconds) == (7, 5000, 9)
    assert edge.cors_origins == ("https://a.example", "https://b.example:8443")


@pytest.mark.parametrize(
    ("flags", "names"),
    [
        ((), {"127.0.0.1"}),
        (("--require-keys",), None),
        (("--host", "0.0.0.0"), None),
        (("--host", "0.0.0.0", "--no-require-keys", "--host-name", "Gateway", "--host-name", "box.lan"),
         {"0.0.0.0", "gateway", "box.lan"}),
    ],
)  # fmt: skip
def test_the_name_is_checked_by_which_a_gateway_without_keys_is_called(
    store: Store, flags: tuple[str, ...], names: set[str] | None
):
    assert guard.edge(settings(*flags), store).host_names == names


async def test_the_log_says_how_to_make_a_key(store: Store, caplog: pytest.LogCaptureFixture):
    caplog.set_level(logging.INFO)
    await guard.tell(settings("--host", "0.0.0.0", "--state-dir", "/some where"), store)
    assert "gateway keys create --state-dir '/some where'" in caplog.text


async def test_a_gateway_for_all_without_keys_warns(store: Store, caplog: pytest.LogCaptureFixture):
    await guard.tell(settings("--host", "0.0.0.0", "--no-require-keys"), store)
    assert [each.levelname for each in caplog.records] == ["WARNING"]


@pytest.mark.parametrize(
    ("flags", "hint"),
    [
        (("--cors-origin", "*"), "--require-keys"),
        (("--cors-origin", "https://a.example/path"), "--cors-origin"),
        (("--cors-origin", "a.example"), "--cors-origin"),
        (("--cors-origin", "null"), "--cors-origin"),
        (("--host-name", "box.lan:8000"), "without a port"),
        (("--tls-cert", "none.pem"), "--tls-key"),
        (("--tls-cert", "none.pem", "--tls-key", "none.pem"), "cannot be read"),
        (("--tls-cert", __file__, "--tls-key", __file__), "PEM"),
    ],
)
def test_flags_that_make_no_sense(flags: tuple[str, ...], hint: str):
    with pytest.raises(UsageError, match=hint):
        guard.check(settings(*flags))


@pytest.mark.parametrize("flag", ["--max-requests=0", "--body-limit=10", "--request-seconds=never", "--port=0"])
def test_numbers_out_of_range(flag: str):
    with pytest.raises(click.UsageError) as refused:
        settings(flag)
    assert flag.partition("=")[0] in refused.value.format_message()


def test_a_certificate_needs_its_own_key_without_a_password(tmp_path: Path):
    certificate, key = make_certificate(tmp_path / "one")
    _, other = make_certificate(tmp_path / "two")
    _, locked = make_certificate(tmp_path / "three", password="secret")
    guard.check(settings("--tls-cert", certificate, "--tls-key", key))
    for wrong in (other, locked):
        with pytest.raises(UsageError, match="--tls-key"):
            guard.check(settings("--tls-cert", certificate, "--tls-key", wrong))
