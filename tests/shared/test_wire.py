from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.errors import FrameError
from shared.wire import (
    FRAME_LIMIT,
    HEADER,
    LENGTH,
    PAYLOAD_LIMIT,
    Attach,
    Close,
    Ping,
    Step,
    TensorSpec,
    check_total,
    decode_frame,
    encode_frame,
)

SESSION = "0123456789abcdef" * 2


def step(**changes: object) -> Step:
    fields = {"session": SESSION, "epoch": 1, "round": 2, "position": 3, "count": 1, "returns": "last", "tensors": ()}
    return Step(**{**fields, **changes})  # pyright: ignore[reportArgumentType]


def test_a_frame_comes_back_as_it_went() -> None:
    message = step(tensors=(TensorSpec(name="hidden", dtype="float32", shape=(1, 4)),))
    frame = encode_frame(message, b"x" * 16)
    assert LENGTH.unpack_from(frame) == (len(frame) - LENGTH.size,)
    decoded, payload = decode_frame(bytearray(frame[LENGTH.size :]))
    assert decoded == message
    assert payload == b"x" * 16


def test_unknown_fields_are_ignored() -> None:
    body = b"\x83\xa4type\xa5close\xa7session\xd9\x20" + SESSION.encode() + b"\xa3new\x01"
    assert decode_frame(bytearray(LENGTH.pack(len(body)) + body))[0] == Close(session=SESSION)


@pytest.mark.parametrize("total", [0, 4, FRAME_LIMIT + 1, 2**32 - 1])
def test_impossible_lengths_are_refused_before_anything_is_allocated(total: int) -> None:
    with pytest.raises(FrameError):
        check_total(total)


@pytest.mark.parametrize(
    "message",
    [
        step(session="short"),
        step(session=SESSION + "\n"),
        step(count=0),
        step(position=-1),
        step(epoch=2**31),
        step(returns="everything"),
        Attach(session=SESSION, epoch=1, edge="sideways"),  # pyright: ignore[reportArgumentType]
        Ping(number=1, sessions=("x",)),
    ],
)
def test_fields_outside_their_limits_are_refused(message: Step) -> None:
    with pytest.raises(FrameError):
        decode_frame(bytearray(encode_frame(message)[LENGTH.size :]))


def test_a_message_longer_than_its_frame_is_refused() -> None:
    frame = HEADER.pack(100, 96) + b"\x80"
    with pytest.raises(FrameError):
        decode_frame(bytearray(frame[LENGTH.size :]))


def test_a_payload_over_the_limit_is_not_encoded() -> None:
    with pytest.raises(FrameError):
        encode_frame(step(), bytes(PAYLOAD_LIMIT + 1))


@given(st.binary(min_size=5, max_size=300))
def test_random_bytes_never_raise_anything_else(body: bytes) -> None:
    try:
        decode_frame(bytearray(body))
    except FrameError:
        return


@given(st.data())
def test_a_changed_byte_never_raises_anything_else(data: st.DataObject) -> None:
    frame = bytearray(encode_frame(step(), b"1234")[LENGTH.size :])
    frame[data.draw(st.integers(0, len(frame) - 1))] = data.draw(st.integers(0, 255))
    try:
        decode_frame(frame)
    except FrameError:
        return
