"""Frames between the kernel and an executor."""

import socket

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmos.kernel.executor.protocol import (
    MAX_FRAME_BYTES,
    Cancel,
    Channel,
    FrameDecoder,
    FromKernel,
    Generate,
    Load,
    Stats,
    encode_frame,
)
from llmos.syscalls.errors import E_ARG, E_FRAME
from llmos.syscalls.types import Message, Sampling, ToolSpec

MESSAGES: list[FromKernel] = [
    Load("/models/a"),
    Generate(1, (Message("user", "hi"),), (ToolSpec("t", "d", "{}"),), Sampling(seed=3), "x"),
    Cancel(1),
    Stats(),
]


@given(st.integers(1, 40))
def test_frames_arrive_whole_however_they_are_cut(size: int) -> None:
    data = b"".join(map(encode_frame, MESSAGES))
    decoder: FrameDecoder[FromKernel] = FrameDecoder(FromKernel)  # type: ignore[arg-type]

    received = [
        message
        for start in range(0, len(data), size)
        for message in decoder.feed(data[start : start + size])
    ]

    assert received == MESSAGES


def test_a_length_over_the_cap_is_an_error() -> None:
    decoder: FrameDecoder[FromKernel] = FrameDecoder(FromKernel)  # type: ignore[arg-type]

    with pytest.raises(E_FRAME, match="4294967295"):
        decoder.feed(b"\xff\xff\xff\xff")


def test_a_message_larger_than_a_frame_is_refused_before_it_is_sent() -> None:
    with pytest.raises(E_ARG, match="a frame holds"):
        encode_frame(Load("x" * (MAX_FRAME_BYTES + 1)))


def test_a_channel_gives_what_is_there_and_notices_the_end() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        channel = Channel(theirs)
        assert channel.receive(wait=False) == []
        ours.sendall(encode_frame(Cancel(7)))
        assert channel.receive(wait=True) == [Cancel(7)]
        ours.close()

        with pytest.raises(EOFError):
            channel.receive(wait=True)
