"""A node's identity: an ed25519 key in a file, the libp2p peer ID that names it, signatures and their check.

libp2p itself is not imported: it costs each process 65 MB, and belongs to the libp2p process alone.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import base58
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from shared.errors import BadIdentity, UsageError
from shared.types import PeerId

_PROTOBUF_KEY = bytes.fromhex("08011220")  # libp2p's PublicKey{Type: Ed25519, Data: 32 bytes}
_IDENTITY_MULTIHASH = bytes.fromhex("0024")  # a peer ID of a short key is the key itself
PUBLIC_KEY_BYTES = 36
SIGNATURE_BYTES = 64


@dataclass(frozen=True, slots=True)
class Identity:
    """An ed25519 key pair and the peer ID it yields."""

    key: Ed25519PrivateKey
    peer: PeerId

    @classmethod
    def from_seed(cls, seed: bytes) -> Identity:
        """From the 32 bytes that make the private key."""
        key = Ed25519PrivateKey.from_private_bytes(seed)
        return cls(key, peer_id(key.public_key()))

    @classmethod
    def create(cls) -> Identity:
        return cls.from_seed(os.urandom(32))

    @classmethod
    def load_or_create(cls, path: Path) -> Identity:
        """The identity kept in `path` (0600, made at first use). Raises UsageError for a file that is not a key."""
        if not path.exists():
            identity = cls.create()
            _write_private(path, identity.seed)
        seed = path.read_bytes()
        if len(seed) != 32:
            raise UsageError(f"{path} is not an identity key (32 bytes): move it away to get a new identity")
        return cls.from_seed(seed)

    @property
    def seed(self) -> bytes:
        return self.key.private_bytes_raw()

    @property
    def public_key(self) -> bytes:
        """The public key as libp2p writes it, 36 bytes."""
        return _PROTOBUF_KEY + self.key.public_key().public_bytes_raw()

    def sign(self, label: bytes, message: bytes) -> bytes:
        """64 bytes over a domain label and the message, so that a signature made for one use serves no other."""
        return self.key.sign(label + message)


def peer_id(key: Ed25519PublicKey) -> PeerId:
    return PeerId(base58.b58encode(_IDENTITY_MULTIHASH + _PROTOBUF_KEY + key.public_bytes_raw()).decode())


def public_key(peer: str) -> Ed25519PublicKey:
    """The key that an ed25519 peer ID contains. Raises BadIdentity."""
    try:
        raw = base58.b58decode(peer) if len(peer) <= 64 else b""
    except ValueError as error:
        raise BadIdentity(f"{peer!r} is not a peer ID") from error
    prefix = _IDENTITY_MULTIHASH + _PROTOBUF_KEY
    if len(raw) != len(prefix) + 32 or not raw.startswith(prefix):
        raise BadIdentity(f"{peer[:80]!r} is not the peer ID of an ed25519 key")
    if base58.b58encode(raw).decode() != peer:
        raise BadIdentity(f"{peer!r} is not how a peer ID is written")
    return Ed25519PublicKey.from_public_bytes(raw[len(prefix) :])


def parse_public_key(protobuf: bytes) -> Ed25519PublicKey:
    """A public key as libp2p writes it. Raises BadIdentity."""
    if len(protobuf) != PUBLIC_KEY_BYTES or not protobuf.startswith(_PROTOBUF_KEY):
        raise BadIdentity("not an ed25519 key")
    return Ed25519PublicKey.from_public_bytes(protobuf[len(_PROTOBUF_KEY) :])


def verify(peer: str, label: bytes, message: bytes, signature: bytes) -> None:
    """Raises BadIdentity unless `peer` signed this message under this label."""
    try:
        public_key(peer).verify(signature, label + message)
    except InvalidSignature as error:
        raise BadIdentity(f"the signature is not one of {peer}") from error


def _write_private(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    partial.unlink(missing_ok=True)
    with os.fdopen(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(data)
    partial.replace(path)
