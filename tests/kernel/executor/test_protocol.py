"""Frames between the kernel and an executor."""

import socket

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmos.kernel.executor.protocol import (
    Cancel,
    Channel,
    FrameDecoder,
    FromKernel,
    Generate,
    Load,
    Stats,
    encode_frame,
)
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

    with pytest.raises(ValueError, match="4294967295"):
        decoder.feed(b"\xff\xff\xff\xff")


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
