"""Messages and frames: what nodes write to each other on links. Knows nothing of sockets or torch.

A frame is `u32 total, u32 message length` (big-endian), the message (a msgpack map tagged `type`) and the bytes
of the tensors that it names; `total` counts all that follows it. Every length is checked before it is allocated,
every field while it is decoded. Unknown fields are ignored, so that later versions may add some.
"""

from __future__ import annotations

import struct
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from shared.errors import FrameError

PROTOCOL = (1, 1)
"""Lowest and highest protocol version that this software speaks."""

FEATURES: tuple[str, ...] = ()
"""Optional parts of the protocol that this software speaks, by name."""

MESSAGE_LIMIT = 64 * 1024
PAYLOAD_LIMIT = 1024 * 1024
WINDOW_BYTES = 4 * 1024 * 1024
"""Bytes of one session on one edge that may be unacknowledged."""

HEADER = struct.Struct(">II")
LENGTH = struct.Struct(">I")
FRAME_LIMIT = LENGTH.size + MESSAGE_LIMIT + PAYLOAD_LIMIT

Name = Annotated[str, Meta(max_length=200)]
Reason = Annotated[str, Meta(max_length=1000)]
Peer = Annotated[str, Meta(min_length=1, max_length=64)]
Session = Annotated[str, Meta(pattern=r"^[0-9a-f]{32}\Z")]
Count = Annotated[int, Meta(ge=0, le=2**31 - 1)]
Versions = tuple[Count, Count]
HopTime = tuple[Count, Count]
"""What one hop spent on a step, in microseconds: in its queue, and in the forward."""
HOPS_LIMIT = 64
Returns = Literal["none", "last", "all"]
"""Of which positions of a step the last hop gives back what it has made."""
HopTimes = Annotated[tuple[HopTime, ...], Meta(max_length=HOPS_LIMIT)]
Features = Annotated[tuple[Name, ...], Meta(max_length=64)]


class TensorSpec(msgspec.Struct, frozen=True):
    """One tensor of a frame: the frame's payload holds the tensors' bytes in the order of their specs."""

    name: Name
    dtype: Literal["float32", "bfloat16", "float16"]
    shape: Annotated[tuple[Count, ...], Meta(max_length=4)]
    codec: Literal["raw"] = "raw"


Tensors = Annotated[tuple[TensorSpec, ...], Meta(max_length=8)]


class Message(msgspec.Struct, frozen=True, tag_field="type", tag=str.lower):
    """Root of all messages; the tag is the class's name in lower case."""


class Challenge(Message, frozen=True):
    """First frame of a link, from the node that was dialled: sign this nonce."""

    nonce: Annotated[bytes, Meta(min_length=32, max_length=32)]
    swarm: Name
    protocol: Versions
    features: Features = ()


class Hello(Message, frozen=True):
    """Second frame, from the dialler: who it is, with the proof."""

    peer: Peer
    signature: Annotated[bytes, Meta(min_length=64, max_length=64)]
    swarm: Name
    protocol: Versions
    role: Literal["control", "data"]
    features: Features = ()


class Welcome(Message, frozen=True):
    """Third frame: the link stands, and speaks this version."""

    protocol: Count


class Failure(Message, frozen=True):
    """Something cannot be done: `code` is one word for programs, `reason` a sentence, `peer` the node at fault.

    A hop that says `kept` still holds the session as it was in `epoch`, and waits for orders; else it has freed it.
    """

    code: Name
    reason: Reason
    session: Session | None = None
    peer: Peer | None = None
    epoch: Count | None = None
    kept: bool = False


class Open(Message, frozen=True):
    """Gateway to hop: hold a cache of `reserve` tokens for `blocks`, between the nodes `upstream` and `downstream`.

    What a hop makes of positions below `forward_from` it keeps in its outbox and does not send on: those after it have
    it. The gateway as `downstream` gets outputs, or steps for the next hop where `output` says so. With a `parent`, a
    session of this gateway over the same blocks, the cache begins as a copy of its first so many tokens.
    """

    session: Session
    fingerprint: Name
    blocks: tuple[Count, Count]
    upstream: Peer
    downstream: Peer
    reserve: Count
    epoch: Count
    output: Name = "hidden"
    forward_from: Count = 0
    parent: tuple[Session, Count] | None = None


class Opened(Message, frozen=True):
    """Hop to gateway: the reservation is made and the downstream edge stands; `cached` tokens were copied."""

    session: Session
    cached: Count = 0


class Extend(Message, frozen=True):
    """Gateway to hop: hold a cache of `reserve` tokens from now on, more than before."""

    session: Session
    reserve: Count


class Extended(Message, frozen=True):
    """Hop to gateway, the answer to Extend: tokens that the session holds now; fewer than asked for is a refusal."""

    session: Session
    reserve: Count


class Status(Message, frozen=True):
    """Gateway to hop: how far are you with this session? `number` comes back in the Report."""

    session: Session
    number: Count


class Report(Message, frozen=True):
    """Hop to gateway, the answer to Status, as of the last forward that is over.

    The cache holds [0, `length`), last written in `round` of `epoch`, and can be cropped to 0 or to any position from
    `shallowest` on; the outbox holds what was made of [`outbox_from`, `length`). `queued` steps of the session wait, or
    one is `running`; a hop that is `blocked` cannot send what it would make. `heard_ms` is how long ago the last byte
    came from upstream, `forward_ms` the age of the forward that runs now, whosever it is; `forwards` are over.
    """

    session: Session
    number: Count
    epoch: Count
    round: Count
    length: Count
    shallowest: Count
    outbox_from: Count
    queued: Count
    running: bool
    blocked: bool
    heard_ms: Count
    forward_ms: Count
    forwards: Annotated[int, Meta(ge=0, le=2**63 - 1)]


class Redirect(Message, frozen=True):
    """Gateway to hop: from `epoch` on you stand between other nodes; go on as in Open.

    Keep [0, `length`) of the cache and drop what waits. Connect to `downstream`, and send it what you have made of
    positions from `forward_from` on: from the outbox, then what you make.
    """

    session: Session
    epoch: Count
    upstream: Peer
    downstream: Peer
    length: Count
    forward_from: Count
    output: Name = "hidden"


class Redirected(Message, frozen=True):
    """Hop to gateway, the answer to Redirect: the downstream edge of `epoch` stands."""

    session: Session
    epoch: Count


class Warm(Message, frozen=True):
    """Gateway to peer: you may soon have to send to these peers; have an idle data link to each."""

    peers: Annotated[tuple[Peer, ...], Meta(max_length=8)]


class Close(Message, frozen=True):
    """Gateway to hop: the session has ended; free its cache."""

    session: Session


class Ping(Message, frozen=True):
    """Gateway to peer, each second: still here, and these sessions are alive."""

    number: Count
    sessions: Annotated[tuple[Session, ...], Meta(max_length=1024)] = ()


class Pong(Message, frozen=True):
    """Peer to gateway: the answer to a Ping, or unasked (`number` 0) when what is free has changed.

    `room_tokens` is the longest session that can be opened now, `longest_tokens` the longest when nothing else is held.
    A peer that is `draining` takes no new sessions and asks for those that it has to be moved.
    """

    number: Count
    cache_tokens: Count
    free_cache_tokens: Count
    room_tokens: Count
    longest_tokens: Count
    sessions: Count
    tokens_per_s: Annotated[float, Meta(ge=0, le=1e9)]
    draining: bool = False


class Attach(Message, frozen=True):
    """Dialler of a data link: this link is now the session's edge that carries steps to you, or outputs to me."""

    session: Session
    epoch: Count
    edge: Literal["steps", "outputs"]


class Attached(Message, frozen=True):
    """Answer to Attach: the session is open here, and the edge stands."""

    session: Session
    epoch: Count


class Detach(Message, frozen=True):
    """Dialler of a data link: the edge has ended in good order, the link may serve another session."""

    session: Session


class Step(Message, frozen=True):
    """Hidden states for positions [position, position + count), on their way through the chain."""

    session: Session
    epoch: Count
    round: Count
    position: Count
    count: Annotated[int, Meta(ge=1, le=2**20)]
    returns: Returns
    tensors: Tensors
    hops: HopTimes = ()  # of the hops that it has passed, in order


class Output(Message, frozen=True):
    """Last hop to gateway: the rows asked for (perhaps none), and so the acknowledgement of a step."""

    session: Session
    epoch: Count
    round: Count
    position: Count
    count: Count
    tensors: Tensors = ()
    hops: HopTimes = ()


class Ack(Message, frozen=True):
    """Receiver of an edge: so many payload bytes of the session have left its queue since Attach."""

    session: Session
    received: Annotated[int, Meta(ge=0, le=2**63 - 1)]


AnyMessage = (
    Challenge | Hello | Welcome | Failure | Open | Opened | Extend | Extended
    | Status | Report | Redirect | Redirected | Warm | Close | Ping | Pong
    | Attach | Attached | Detach | Step | Output | Ack
)  # fmt: skip

_encoder = msgspec.msgpack.Encoder()
_decoder: msgspec.msgpack.Decoder[AnyMessage] = msgspec.msgpack.Decoder(AnyMessage)


def encode_frame(message: Message, payload: bytes | memoryview = b"") -> bytes:
    """A whole frame. Raises FrameError over the limits."""
    body = _encoder.encode(message)
    if len(body) > MESSAGE_LIMIT or len(payload) > PAYLOAD_LIMIT:
        raise FrameError(f"a frame of {len(body)} + {len(payload)} bytes is over the limit")
    return b"".join((HEADER.pack(LENGTH.size + len(body) + len(payload), len(body)), body, payload))


def check_total(total: int) -> int:
    """The length of what follows a frame's first four bytes, if it can be one. Raises FrameError."""
    if not LENGTH.size < total <= FRAME_LIMIT:
        raise FrameError(f"a frame of {total} bytes is outside the limits")
    return total


def decode_frame(body: bytearray | memoryview) -> tuple[AnyMessage, memoryview]:
    """Message and payload of a frame without its first four bytes. Raises FrameError."""
    view = memoryview(body)
    (length,) = LENGTH.unpack_from(view)
    payload = view[LENGTH.size + length :]
    if length > min(MESSAGE_LIMIT, len(view) - LENGTH.size) or len(payload) > PAYLOAD_LIMIT:
        raise FrameError(f"a message of {length} bytes in a frame of {len(view)} is outside the limits")
    try:
        return _decoder.decode(view[LENGTH.size : LENGTH.size + length]), payload
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise FrameError(f"a message cannot be read: {str(error)[:200]}") from error
