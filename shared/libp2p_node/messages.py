"""What crosses the pipe between a program and its libp2p process. Imports neither libp2p nor trio.

Each message is a u32 length (big-endian) and a msgpack map tagged `type`.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Generic, Literal, TypeVar

import msgspec

from shared.errors import FrameError

LENGTH = struct.Struct(">I")
MESSAGE_LIMIT = 128 * 1024


class Message(msgspec.Struct, frozen=True, tag_field="type", tag=str.lower):
    """Root of all messages on the pipe."""


class Start(Message, frozen=True):
    """First of all: who this node is and where it listens; `ports` are tried in their order."""

    seed: bytes
    swarm: str
    listen: str
    ports: tuple[int, ...]
    log_level: int = 20


class Join(Message, frozen=True):
    """Connect to one of these multiaddrs (with `/p2p/`) whenever there are no neighbours."""

    addresses: tuple[str, ...]


class Learn(Message, frozen=True):
    """A record that the program knows from a libp2p process that died."""

    record: bytes
    age_s: float


class Announce(Message, frozen=True):
    """This node's own record: tell the swarm, and every new neighbour."""

    record: bytes


class Stop(Message, frozen=True):
    """Send what is queued, then end."""


class Started(Message, frozen=True):
    """Listening on this port."""

    port: int


class Heard(Message, frozen=True):
    """A record that is new here: checked, of this swarm, told by `source`."""

    record: bytes
    age_s: float
    source: str


class Neighbours(Message, frozen=True):
    """How many nodes of this swarm are connected, whenever that changes."""

    count: int


class Refused(Message, frozen=True):
    """What others sent and was refused, by kind, since this was told last."""

    counts: dict[str, int]


class Failed(Message, frozen=True):
    """The process ends: no port is free, or something broke."""

    code: Literal["port", "broken"]
    reason: str = ""


Command = Start | Join | Learn | Announce | Stop
Event = Started | Heard | Neighbours | Refused | Failed
M = TypeVar("M")


def encode(message: Message) -> bytes:
    payload = msgspec.msgpack.encode(message)
    return LENGTH.pack(len(payload)) + payload


class Reader(Generic[M]):
    """Cuts a stream of bytes into messages."""

    def __init__(self, decoder: msgspec.msgpack.Decoder[M]) -> None:
        self._decoder = decoder
        self._buffer = bytearray()

    def feed(self, data: bytes) -> Iterator[M]:
        """The messages that `data` completes. Raises FrameError."""
        self._buffer += data
        while len(self._buffer) >= LENGTH.size:
            (length,) = LENGTH.unpack_from(self._buffer)
            if length > MESSAGE_LIMIT:
                raise FrameError(f"a message of {length} bytes on the pipe")
            end = LENGTH.size + length
            if len(self._buffer) < end:
                return
            payload = bytes(self._buffer[LENGTH.size : end])
            del self._buffer[:end]
            try:
                yield self._decoder.decode(payload)
            except msgspec.DecodeError as error:
                raise FrameError(f"an unknown message on the pipe: {error}") from error


def command_reader() -> Reader[Command]:
    return Reader(msgspec.msgpack.Decoder(Command))


def event_reader() -> Reader[Event]:
    return Reader(msgspec.msgpack.Decoder(Event))
