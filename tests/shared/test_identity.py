from __future__ import annotations

import stat
from pathlib import Path

import pytest
from cryptography import x509
from libp2p.crypto.ed25519 import create_new_key_pair
from libp2p.peer.id import ID
from libp2p.security.tls.certificate import verify_certificate_chain

from shared.certificate import peer_of, server_context
from shared.errors import BadIdentity, UsageError
from shared.identity import Identity, public_key, verify

SEED = bytes(range(32))


def test_the_peer_id_is_the_one_that_libp2p_gives_the_same_key() -> None:
    theirs = ID.from_pubkey(create_new_key_pair(SEED).public_key)
    assert Identity.from_seed(SEED).peer == theirs.to_string()


def test_the_key_is_kept_in_a_private_file(tmp_path: Path) -> None:
    first = Identity.load_or_create(tmp_path / "state" / "identity.key")
    assert stat.S_IMODE((tmp_path / "state" / "identity.key").stat().st_mode) == 0o600
    assert Identity.load_or_create(tmp_path / "state" / "identity.key").peer == first.peer


def test_a_file_that_is_no_key_is_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "identity.key").write_bytes(b"my diary")
    with pytest.raises(UsageError, match="not an identity key"):
        Identity.load_or_create(tmp_path / "identity.key")
    assert (tmp_path / "identity.key").read_bytes() == b"my diary"


def test_a_signature_serves_one_label_one_message_and_one_peer() -> None:
    one, other = Identity.create(), Identity.create()
    signature = one.sign(b"a:", b"message")
    verify(one.peer, b"a:", b"message", signature)
    for peer, label, message in (
        (one.peer, b"b:", b"message"),
        (one.peer, b"a:", b"x"),
        (other.peer, b"a:", b"message"),
    ):
        with pytest.raises(BadIdentity):
            verify(peer, label, message, signature)


@pytest.mark.parametrize("peer", ["", "0OIl", "12D3KooW", "Qm" + "1" * 44, "1" * 10_000, "ü"])
def test_what_is_no_peer_id_is_refused(peer: str) -> None:
    with pytest.raises(BadIdentity):
        public_key(peer)


def test_libp2p_reads_the_identity_in_our_certificate() -> None:
    identity = Identity.create()
    _, der = server_context(identity)
    theirs = ID.from_pubkey(verify_certificate_chain([x509.load_der_x509_certificate(der)]))
    assert peer_of(der) == identity.peer == theirs.to_string()


def test_bytes_that_are_no_certificate_are_refused() -> None:
    with pytest.raises(BadIdentity):
        peer_of(b"not a certificate")
