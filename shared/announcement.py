"""Announcements: what nodes say of themselves, signed by themselves, good for a limited time.

A record is the announcement as it travels and is kept: 64 bytes of signature, then the announcement as a msgpack map.
Since the peer ID contains the key that signed, a record proves itself however it came. Unknown fields are ignored.
"""

from __future__ import annotations

import math
from typing import Annotated, Literal, TypeVar

import msgspec
from msgspec import Meta

from shared.errors import FrameError, ProtocolError
from shared.identity import SIGNATURE_BYTES, Identity, verify
from shared.types import BlockRange, Fingerprint, Numerics, PeerId

LABEL = b"corolla-announcement-v1:"
RECORD_LIMIT = 32 * 1024
CLOCK_SKEW_S = 600.0
"""How far the clocks of two nodes may be apart."""
TTL_LIMIT_S = 600.0
BLOCKS_LIMIT = 2048
DIGEST_BYTES = 16
ADDRESSES_LIMIT = 16
ADDRESS_LENGTH = 200
FEATURES_LIMIT = 64
SEQUENCE_LIMIT = 2**63 - 1

Kind = Literal["peer", "gateway"]
State = Literal["joining", "online", "draining", "gone"]
Name = Annotated[str, Meta(max_length=64)]
LongName = Annotated[str, Meta(max_length=200)]
Digest = Annotated[bytes, Meta(min_length=DIGEST_BYTES, max_length=DIGEST_BYTES)]
BlockCount = Annotated[int, Meta(ge=0, le=BLOCKS_LIMIT)]
Version = Annotated[int, Meta(ge=0, le=2**31 - 1)]
T = TypeVar("T")


class Offer(msgspec.Struct, frozen=True, kw_only=True):
    """What a node has to offer, as it says itself. A gateway has no model. Raises ValueError for what is malformed."""

    kind: Kind
    name: Name
    state: State = "online"
    model: LongName = ""
    fingerprint: Fingerprint = Fingerprint("")
    blocks: BlockRange | None = None
    model_blocks: BlockCount = 0
    """How many blocks the whole model has."""
    digests: Annotated[tuple[Digest, ...], Meta(max_length=BLOCKS_LIMIT)] = ()
    """Of the source tensors of each block in `blocks`; empty where not yet known."""
    numerics: Numerics | None = None
    tokens_per_s: float = 0.0
    cache_tokens: Annotated[int, Meta(ge=0, le=2**53)] = 0

    def __post_init__(self) -> None:
        _check_printable("name", self.name, 64)
        _check_printable("model", self.model, 200)
        if not (math.isfinite(self.tokens_per_s) and self.tokens_per_s >= 0):
            raise ValueError("tokens_per_s must be a finite number, 0 or more")
        if self.kind == "peer":
            self._check_peer()
        elif self.fingerprint or self.blocks or self.digests:
            raise ValueError("a gateway announces no blocks")

    def _check_peer(self) -> None:
        if len(self.fingerprint) != 64 or not set(self.fingerprint) <= set("0123456789abcdef"):
            raise ValueError("a fingerprint has 64 hex digits")
        if not self.blocks or self.blocks.end > self.model_blocks:
            raise ValueError(f"blocks {self.blocks} are not within the model's {self.model_blocks}")
        if self.digests and len(self.digests) != len(self.blocks):
            raise ValueError("there must be one digest for each block")
        for word in _words(self.numerics):
            _check_printable("numerics", word, 32)


class Announcement(Offer, frozen=True, kw_only=True):
    """An offer, with who makes it, where that node is, and until when it holds."""

    peer: PeerId
    addresses: Annotated[tuple[Annotated[str, Meta(max_length=ADDRESS_LENGTH)], ...], Meta(max_length=ADDRESSES_LIMIT)]
    """Multiaddrs: `/ip4/1.2.3.4/tcp/4001` for the control plane, `/ip4/1.2.3.4/tcp/4002/tls` for links."""
    swarm: Name
    protocol: tuple[Version, Version]
    features: Annotated[tuple[Name, ...], Meta(max_length=FEATURES_LIMIT)] = ()
    version: Name = ""
    sequence: Annotated[int, Meta(ge=0, le=SEQUENCE_LIMIT)]
    issued_at: float
    """Unix time, seconds, by the node's own clock."""
    ttl_s: Annotated[float, Meta(ge=1, le=TTL_LIMIT_S)]

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_printable("swarm", self.swarm, 64)
        _check_printable("version", self.version, 64)
        for text in (*self.addresses, *self.features):
            _check_printable("address or feature", text, ADDRESS_LENGTH)
        if self.protocol[0] > self.protocol[1]:
            raise ValueError("protocol must be (lowest, highest)")
        if not (math.isfinite(self.issued_at) and math.isfinite(self.ttl_s)):
            raise ValueError("issued_at and ttl_s must be finite numbers")


class _Signed(msgspec.Struct, frozen=True):
    """What every version's announcement says."""

    peer: PeerId


_DECODER = msgspec.msgpack.Decoder(Announcement)
_SIGNED_DECODER = msgspec.msgpack.Decoder(_Signed)


def seal(announcement: Announcement, identity: Identity) -> bytes:
    """The record of one's own announcement. Raises FrameError when it is too long."""
    payload = msgspec.msgpack.encode(announcement)
    if SIGNATURE_BYTES + len(payload) > RECORD_LIMIT:
        raise FrameError(f"the announcement is longer than {RECORD_LIMIT} bytes")
    return identity.sign(LABEL, payload) + payload


def unseal(record: bytes, now: float) -> Announcement:
    """The announcement in a record from anybody; `now` is Unix time, s. Raises ProtocolError, and its kinds."""
    check_signature(record)
    announcement = _decode(_DECODER, record)
    if abs(announcement.issued_at - now) > CLOCK_SKEW_S:
        raise ProtocolError(f"issued {now - announcement.issued_at:.0f} s ago: too old, or a clock is wrong")
    return announcement


def check_signature(record: bytes) -> None:
    """Raises FrameError or BadIdentity unless who is named in a record has signed it, whatever else it says.

    Later versions may say what this one cannot read, and clocks differ: only who passes on what fails here is at fault.
    """
    if not SIGNATURE_BYTES < len(record) <= RECORD_LIMIT:
        raise FrameError(f"an announcement has at most {RECORD_LIMIT} bytes, this one {len(record)}")
    signed = _decode(_SIGNED_DECODER, record)
    verify(signed.peer, LABEL, record[SIGNATURE_BYTES:], record[:SIGNATURE_BYTES])


def _decode(decoder: msgspec.msgpack.Decoder[T], record: bytes) -> T:
    try:
        return decoder.decode(memoryview(record)[SIGNATURE_BYTES:])
    except (msgspec.DecodeError, ValueError, RecursionError) as error:
        raise FrameError(f"not an announcement: {error}") from error


def _words(numerics: Numerics | None) -> tuple[str, ...]:
    return (numerics.dtype, numerics.quantization, numerics.wire) if numerics else ()


def _check_printable(field: str, text: str, limit: int) -> None:
    if len(text) > limit or not text.isprintable():
        raise ValueError(f"{field} must be printable and have at most {limit} characters")
