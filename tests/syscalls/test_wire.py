"""Frames: what arrives is what was sent, and what breaks the rules is named."""

import struct
from contextlib import suppress

import anyio
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmos.syscalls.errors import E_ARG, E_DECODE, E_FRAME
from llmos.syscalls.types import Message, Sampling
from llmos.syscalls.wire import MAX_FRAME_BYTES, FrameStream, decode, encode, encode_frame

pytestmark = pytest.mark.anyio
_messages = msgspec.msgpack.Decoder(Message)
_sampling = msgspec.msgpack.Decoder(Sampling)


class Bytes:
    """A byte stream that hands out given parts, then ends or stays silent."""

    def __init__(self, *parts: bytes, silent: bool = False) -> None:
        self.parts = list(parts)
        self.silent = silent
        self.sent = b""

    async def receive(self, max_bytes: int = 65_536) -> bytes:
        if self.parts:
            return self.parts.pop(0)
        if self.silent:
            await anyio.sleep_forever()
        raise anyio.EndOfStream

    async def send(self, item: bytes) -> None:
        self.sent += item

    async def aclose(self) -> None:
        self.parts.clear()


@given(st.lists(st.text(alphabet=st.characters(exclude_categories=["Cs"])), max_size=5))
def test_any_text_survives_the_wire(texts: list[str]) -> None:
    async def run() -> None:
        sender = Bytes()
        for text in texts:
            await FrameStream(sender).send(Message("user", text))
        receiver = FrameStream(Bytes(*(bytes([byte]) for byte in sender.sent)))

        received = [decode(await receiver.receive(), _messages).content for _ in texts]

        assert received == texts

    anyio.run(run)


@pytest.mark.parametrize("length", [0, MAX_FRAME_BYTES + 1, 2**32 - 1])
async def test_a_length_out_of_bounds_is_a_frame_error(length: int) -> None:
    with pytest.raises(E_FRAME):
        await FrameStream(Bytes(struct.pack(">I", length))).receive()


async def test_the_largest_frame_is_allowed() -> None:
    body = b"x" * MAX_FRAME_BYTES

    received = await FrameStream(Bytes(struct.pack(">I", len(body)) + body)).receive()

    assert received == body


async def test_an_end_between_frames_is_the_end() -> None:
    with pytest.raises(anyio.EndOfStream):
        await FrameStream(Bytes()).receive()


async def test_an_end_inside_a_frame_is_a_frame_error() -> None:
    with pytest.raises(E_FRAME, match="inside"):
        await FrameStream(Bytes(b"\0\0\0\x05ab")).receive()


async def test_a_frame_that_dribbles_in_is_given_up() -> None:
    stream = FrameStream(Bytes(b"\0\0\0\x05a", silent=True), frame_timeout_seconds=0.01)

    with pytest.raises(E_FRAME, match="took over"):
        await stream.receive()


async def test_silence_between_frames_is_no_error() -> None:
    stream = FrameStream(Bytes(silent=True), frame_timeout_seconds=0.01)

    with anyio.move_on_after(0.05) as scope:
        await stream.receive()

    assert scope.cancelled_caught


def test_a_value_larger_than_a_frame_is_refused_before_it_is_sent() -> None:
    with pytest.raises(E_ARG, match="a frame holds"):
        encode_frame("x" * (MAX_FRAME_BYTES + 1))


def test_half_a_surrogate_pair_cannot_be_sent() -> None:
    with pytest.raises(E_ARG, match="cannot be sent"):
        encode("\ud800")


@pytest.mark.parametrize("number", [float("nan"), float("inf"), -0.1, 2.1, True, "1"])
def test_a_value_out_of_bounds_names_its_field(number: object) -> None:
    with pytest.raises(E_ARG) as caught:
        decode(msgspec.msgpack.encode({"temperature": number}), _sampling)

    assert caught.value.field == "temperature"


@given(st.binary(max_size=200))
def test_no_bytes_raise_anything_but_typed_errors(data: bytes) -> None:
    with suppress(E_ARG, E_DECODE):
        assert isinstance(decode(data, _sampling), Sampling)
