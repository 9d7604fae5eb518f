from __future__ import annotations

import time
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.announcement import LABEL, RECORD_LIMIT, Announcement, seal, unseal
from shared.errors import BadIdentity, FrameError, ProtocolError
from shared.identity import SIGNATURE_BYTES, Identity
from shared.types import BlockRange
from tests.shared.announcements import announcement

ANN = Identity.from_seed(b"a" * 32)
EVE = Identity.from_seed(b"e" * 32)
RECORD = seal(announcement(ANN), ANN)
FIELDS: dict[str, Any] = msgspec.msgpack.decode(RECORD[SIGNATURE_BYTES:])


def signed(fields: Any, identity: Identity = ANN) -> bytes:
    """A record that is signed well, whatever it says."""
    payload = msgspec.msgpack.encode(fields)
    return identity.sign(LABEL, payload) + payload


def test_what_was_sealed_comes_out() -> None:
    said = announcement(ANN, features=("extend",), version="0.1.0", state="draining")
    assert unseal(seal(said, ANN), time.time()) == said


def test_a_gateway_announces_no_blocks() -> None:
    plain = {"model": "", "fingerprint": "", "blocks": None, "model_blocks": 0, "digests": (), "numerics": None}
    said = announcement(ANN, kind="gateway", **plain)
    assert unseal(seal(said, ANN), time.time()) == said
    with pytest.raises(ValueError, match="no blocks"):
        announcement(ANN, kind="gateway")


def test_fields_of_later_versions_are_ignored() -> None:
    assert unseal(signed({**FIELDS, "coordinate": [1.0, {"x": None}]}), time.time()).peer == ANN.peer


@pytest.mark.parametrize(
    "changes",
    [
        {"kind": "king"},
        {"state": "asleep"},
        {"name": "x" * 65},
        {"name": "bell\x07"},
        {"name": "two\nlines"},
        {"model": "m" * 201},
        {"fingerprint": "0" * 63},
        {"fingerprint": "0" * 63 + "\n"},
        {"fingerprint": "G" * 64},
        {"blocks": None},
        {"blocks": {"start": 3, "end": 3}},
        {"blocks": {"start": -1, "end": 3}},
        {"blocks": {"start": 10, "end": 31}},
        {"model_blocks": 2049},
        {"digests": [b"x" * 15] * 10},
        {"digests": [b"x" * 16] * 9},
        {"numerics": {"dtype": "d" * 33, "quantization": "none", "wire": "float32"}},
        {"tokens_per_s": float("nan")},
        {"tokens_per_s": float("inf")},
        {"tokens_per_s": -1.0},
        {"cache_tokens": -1},
        {"cache_tokens": 2**60},
        {"addresses": ["/ip4/192.0.2.7/tcp/1"] * 17},
        {"addresses": ["/" * 201]},
        {"addresses": "/ip4/192.0.2.7/tcp/1"},
        {"swarm": "s" * 65},
        {"protocol": [2, 1]},
        {"protocol": [1]},
        {"protocol": [-1, 1]},
        {"features": ["f"] * 65},
        {"sequence": -1},
        {"sequence": 2**63},
        {"sequence": 1.5},
        {"issued_at": float("nan")},
        {"issued_at": "now"},
        {"ttl_s": 0.5},
        {"ttl_s": 601.0},
        {"ttl_s": float("nan")},
        {"peer": 7},
    ],
    ids=str,
)
def test_a_signed_record_with_a_malformed_field_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(FrameError):
        unseal(signed({**FIELDS, **changes}), time.time())


@pytest.mark.parametrize("field", sorted(set(FIELDS) & set(Announcement.__struct_fields__[-8:]) - {"features"}))
def test_a_record_that_lacks_a_field_is_refused(field: str) -> None:
    lacking = {name: value for name, value in FIELDS.items() if name != field}
    if field == "version":
        assert unseal(signed(lacking), time.time()).version == ""
        return
    with pytest.raises(FrameError):
        unseal(signed(lacking), time.time())


def test_a_record_that_another_signed_is_refused() -> None:
    with pytest.raises(BadIdentity):
        unseal(signed(FIELDS, EVE), time.time())


def test_a_signature_made_for_another_use_is_refused() -> None:
    payload = RECORD[SIGNATURE_BYTES:]
    with pytest.raises(BadIdentity):
        unseal(ANN.sign(b"corolla-hello-v1:", payload) + payload, time.time())


@pytest.mark.parametrize("peer", [f"{ANN.peer} ", "12D3KooW", "", "Qm" + "1" * 44, "é" * 30])
def test_another_way_to_write_a_peer_id_is_refused(peer: str) -> None:
    with pytest.raises(BadIdentity):
        unseal(signed({**FIELDS, "peer": peer}), time.time())


@pytest.mark.parametrize("off_s", [-601.0, 601.0, 1e300])
def test_a_record_from_another_time_is_refused(off_s: float) -> None:
    with pytest.raises(ProtocolError, match="clock"):
        unseal(seal(announcement(ANN, issued_at=time.time() + off_s), ANN), time.time())


def test_a_record_over_the_limit_is_refused_on_both_sides() -> None:
    digests = {"blocks": BlockRange(0, 2048), "model_blocks": 2048, "digests": (b"d" * 16,) * 2048}
    with pytest.raises(FrameError):
        seal(announcement(ANN, **digests), ANN)
    with pytest.raises(FrameError):
        unseal(RECORD + bytes(RECORD_LIMIT), time.time())


def test_deep_nesting_is_refused() -> None:
    payload = b"\x81\xa1x" + b"\x91" * 30_000
    with pytest.raises(FrameError):
        unseal(ANN.sign(LABEL, payload) + payload, time.time())


@given(st.binary(max_size=600))
def test_random_bytes_raise_protocol_errors_alone(record: bytes) -> None:
    with pytest.raises(ProtocolError):
        unseal(record, time.time())


@given(st.lists(st.tuples(st.integers(0, len(RECORD) - 1), st.integers(1, 255)), min_size=1, max_size=8))
def test_a_changed_record_raises_protocol_errors_alone(changes: list[tuple[int, int]]) -> None:
    record = bytearray(RECORD)
    for at, bits in changes:
        record[at] ^= bits
    if bytes(record) != RECORD:
        with pytest.raises(ProtocolError):
            unseal(bytes(record), time.time())


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats() | st.text(max_size=80) | st.binary(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=8,
)


@settings(max_examples=300)
@given(st.sampled_from(sorted(FIELDS)), JSON)
def test_a_signed_record_with_any_value_is_read_or_refused(field: str, value: Any) -> None:
    try:
        record = signed({**FIELDS, field: value})
        said = unseal(record, time.time())
    except ProtocolError:
        return
    assert unseal(seal(said, ANN), time.time()) == said
