"""Bytes of all kinds at the frame decoder and at links: documented errors alone, and never more memory than a frame."""

from __future__ import annotations

import tracemalloc

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.errors import FrameError
from shared.wire import FRAME_LIMIT, LENGTH, MESSAGE_LIMIT, decode_frame, encode_frame
from tests.shared.frames import FRAMES, MESSAGES, Reader, readable

CUTS = st.lists(st.integers(1, 400), max_size=8)


@st.composite
def spoiled_frames(draw: st.DrawFn) -> bytes:
    """Good frames, of which some bytes are changed, missing, doubled or moved."""
    stream = bytearray(b"".join(draw(st.lists(st.sampled_from(FRAMES), min_size=1, max_size=4))))
    for _ in range(draw(st.integers(0, 4))):
        start, length = draw(st.integers(0, len(stream))), draw(st.integers(0, 40))
        piece = stream[start : start + length]
        replacement = draw(st.sampled_from((b"", piece * 2, piece[::-1], b"\xff" * length)) | st.binary(max_size=12))
        stream[start : start + length] = replacement
    return bytes(stream)


def feed_in_pieces(reader: Reader, data: bytes, cuts: list[int]) -> None:
    for cut in cuts:
        reader.feed(data[:cut])
        data = data[cut:]
    reader.feed(data)


@pytest.mark.parametrize("message", MESSAGES, ids=lambda message: type(message).__name__)
def test_every_message_comes_back_as_it_went(message: object) -> None:
    reader = Reader()
    reader.feed(FRAMES[MESSAGES.index(message)])  # pyright: ignore[reportArgumentType]
    assert reader.told == [(message, b"0123456789abcdef" * 2)]


@given(st.permutations(FRAMES), CUTS)
def test_good_frames_come_out_however_they_are_cut(frames: list[bytes], cuts: list[int]) -> None:
    reader = Reader()
    feed_in_pieces(reader, b"".join(frames), cuts)
    assert len(reader.told) == len(FRAMES)
    reader.check()


@settings(max_examples=400)
@given(spoiled_frames() | st.binary(max_size=600), CUTS)
def test_a_link_takes_what_it_can_read_and_refuses_the_rest_however_it_is_cut(data: bytes, cuts: list[int]) -> None:
    reader = Reader()
    feed_in_pieces(reader, data, cuts)
    assert [message for message, _ in reader.told] == readable(data)
    reader.check()


@settings(max_examples=200)
@given(spoiled_frames() | st.binary(max_size=600), CUTS)
def test_a_link_before_its_handshake_keeps_a_few_small_frames_at_most(data: bytes, cuts: list[int]) -> None:
    reader = Reader(proven=False)
    feed_in_pieces(reader, data, cuts)
    assert len(reader.link._early) <= 4
    reader.check()


@settings(max_examples=400)
@given(st.sampled_from(FRAMES), st.data())
def test_a_spoiled_message_is_read_or_refused_and_never_anything_else(frame: bytes, data: st.DataObject) -> None:
    body = bytearray(frame[LENGTH.size :])
    for _ in range(data.draw(st.integers(1, 4))):
        body[data.draw(st.integers(0, len(body) - 1))] = data.draw(st.integers(0, 255))
    try:
        message, _ = decode_frame(body)
    except FrameError:
        return
    assert decode_frame(bytearray(encode_frame(message)[LENGTH.size :]))[0] == message


@pytest.mark.parametrize("nested", [b"\x91", b"\x81\xa1x", b"\x81\xa4type"], ids=["arrays", "maps", "tags"])
def test_a_message_that_is_nested_to_its_limit_is_refused(nested: bytes) -> None:
    body = (nested * MESSAGE_LIMIT)[:MESSAGE_LIMIT]
    with pytest.raises(FrameError):
        decode_frame(bytearray(LENGTH.pack(len(body)) + body))


@given(st.binary(min_size=4, max_size=40))
def test_lengths_that_promise_much_cost_no_more_than_a_frame(head: bytes) -> None:
    tracemalloc.start()
    try:
        Reader().feed(b"\x00\x11" + head)  # the first two bytes are those of a frame near the limit
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < FRAME_LIMIT + 256 * 1024
