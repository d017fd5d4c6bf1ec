"""The frame: bodies come out whole however the bytes are cut, and bad lengths are named."""

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmos.syscalls.errors import E_ARG, E_FRAME
from llmos.syscalls.frames import FrameBuffer, pack_frame

MAX = 10


def take_all(buffer: FrameBuffer) -> list[bytes]:
    return list(iter(buffer.take, None))


@given(st.lists(st.binary(min_size=1, max_size=MAX)), st.integers(1, 40))
def test_bodies_come_out_as_they_went_in_however_they_are_cut(
    bodies: list[bytes], size: int
) -> None:
    data, buffer, taken = b"".join(pack_frame(body, MAX) for body in bodies), FrameBuffer(MAX), []

    for start in range(0, len(data), size):
        buffer.feed(data[start : start + size])
        taken += take_all(buffer)

    assert taken == bodies
    assert not buffer


def test_a_part_of_a_frame_is_waited_for() -> None:
    buffer = FrameBuffer(MAX)
    buffer.feed(b"\0\0\0\x02a")

    assert buffer.take() is None
    assert buffer

    buffer.feed(b"b")
    assert buffer.take() == b"ab"


@pytest.mark.parametrize("length", [0, MAX + 1, 2**32 - 1])
def test_a_length_out_of_bounds_is_named_before_the_body_is_there(length: int) -> None:
    buffer = FrameBuffer(MAX)
    buffer.feed(struct.pack(">I", length))

    with pytest.raises(E_FRAME, match=f"a frame of {length} bytes; 1 to {MAX} are allowed"):
        buffer.take()


def test_a_body_larger_than_a_frame_is_refused_with_both_sizes() -> None:
    assert pack_frame(b"x" * MAX, MAX) == struct.pack(">I", MAX) + b"x" * MAX

    with pytest.raises(E_ARG, match="the message has 11 bytes, a frame holds 10"):
        pack_frame(b"x" * (MAX + 1), MAX)
