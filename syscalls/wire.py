"""The wire: what apps and kernel say in msgpack frames, and where bytes become values.

A frame (see frames.py) of an app holds at most MAX_FRAME_BYTES. A stream that breaks this rule
cannot be read on and closes (E_FRAME); a frame that is not the expected value leaves the stream
usable (E_DECODE, or E_ARG naming the field).
"""

import asyncio
import re
from typing import Annotated, Protocol, TypeVar

import anyio
import msgspec
from msgspec import Meta

from .errors import E_ARG, E_DECODE, E_FRAME, ErrorReply
from .frames import READ_BYTES, FrameBuffer, pack_frame
from .types import Name, Pid, Seq, Strand

PROTOCOL_VERSION = 1
MAX_FRAME_BYTES = 1 << 20
FRAME_TIMEOUT_SECONDS = 10.0
GONE = (anyio.EndOfStream, anyio.BrokenResourceError, anyio.ClosedResourceError)

_PLACE = re.compile(r" - at `(\$[^`]*)`$")
_encoder = msgspec.msgpack.Encoder()
T = TypeVar("T")


class Hello(msgspec.Struct, frozen=True, tag="hello"):
    """First frame of an app: the version it speaks, who it is, and its token."""

    version: int
    pid: Pid
    token: Annotated[str, Meta(max_length=64)]


class Request(msgspec.Struct, frozen=True, tag="call"):
    """A syscall. `seq` counts from 0 within `strand`; `args` is the call's own struct.

    Both ends count what was sent, so a number is spent whatever the answer is. A request may come
    again: with a row in the journal it is answered from that, without one it is a new call.
    """

    strand: Strand
    seq: Seq
    name: Name
    args: msgspec.Raw


class Cancel(msgspec.Struct, frozen=True, tag="cancel"):
    """The app no longer waits for this call."""

    strand: Strand
    seq: Seq


class Joined(msgspec.Struct, frozen=True, tag="joined"):
    """Children 1 to `num_children` of this strand have ended: no more calls come from them."""

    strand: Strand
    num_children: Annotated[int, Meta(ge=1, le=2**53)]


class Exit(msgspec.Struct, frozen=True, tag="exit"):
    """Last frame of an app: what main returned, or why it did not."""

    code: Annotated[int, Meta(ge=0, le=255)]
    result: Annotated[str, Meta(max_length=200_000)] = ""
    error: ErrorReply | None = None


class Idle(msgspec.Struct, frozen=True, tag="idle"):
    """The app's answer to AskIdle: whether nothing but a reply can make it go on."""

    is_idle: bool


class Welcome(msgspec.Struct, frozen=True, tag="welcome"):
    """The kernel's answer to HELLO: the app's arguments."""

    pid: int
    argv: tuple[str, ...]


class Chunk(msgspec.Struct, frozen=True, tag="chunk"):
    """A part of a streamed reply."""

    strand: str
    seq: int
    text: str


class Reply(msgspec.Struct, frozen=True, tag="reply"):
    """A syscall's result, as the reply type of its row."""

    strand: str
    seq: int
    value: msgspec.Raw


class Failure(msgspec.Struct, frozen=True, tag="failure"):
    """A syscall's typed error."""

    strand: str
    seq: int
    error: ErrorReply


class Deliver(msgspec.Struct, frozen=True, tag="signal"):
    """A signal that the app may act on before its grace period ends."""

    name: str


class AskIdle(msgspec.Struct, frozen=True, tag="ask_idle"):
    """The kernel would take the app's OS process, which only waits as far as it can see."""


class Goodbye(msgspec.Struct, frozen=True, tag="goodbye"):
    """The kernel closes the stream, and why."""

    error: ErrorReply


FromApp = Hello | Request | Cancel | Joined | Idle | Exit
FromKernel = Welcome | Chunk | Reply | Failure | Deliver | AskIdle | Goodbye


class ByteStream(Protocol):
    """What a frame stream needs of a socket; anyio's byte streams have it."""

    async def receive(self, max_bytes: int = READ_BYTES) -> bytes: ...
    async def send(self, item: bytes) -> None: ...
    async def aclose(self) -> None: ...


def encode(value: object) -> bytes:
    """A value as msgpack. Text that is no Unicode (lone surrogates) is E_ARG."""
    try:
        return _encoder.encode(value)
    except (UnicodeEncodeError, OverflowError) as error:
        raise E_ARG(f"cannot be sent: {error}") from None


def encode_frame(value: object, max_frame_bytes: int = MAX_FRAME_BYTES) -> bytes:
    """A value as a whole frame. Larger than a frame may be: E_ARG with both sizes."""
    return pack_frame(encode(value), max_frame_bytes)


def decode(body: bytes | msgspec.Raw, decoder: "msgspec.msgpack.Decoder[T]") -> T:
    """Bytes as a value of the decoder's type.

    A value out of its bounds is E_ARG with its path as `field`; anything else that msgspec or
    Python raise on hostile bytes is E_DECODE.
    """
    try:
        return decoder.decode(body)
    except msgspec.ValidationError as error:
        text = str(error)
        place = _PLACE.search(text)
        field = place.group(1).removeprefix("$").lstrip(".") if place else None
        raise E_ARG(text[: place.start()] if place else text, field=field or None) from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, ValueError) as error:
        raise E_DECODE(str(error)) from None


class FrameStream:
    """Frames over a byte stream. One task may receive; sends are whole frames in order."""

    def __init__(
        self,
        stream: ByteStream,
        *,
        max_frame_bytes: int = MAX_FRAME_BYTES,
        frame_timeout_seconds: float = FRAME_TIMEOUT_SECONDS,
    ) -> None:
        self._stream = stream
        self._buffer = FrameBuffer(max_frame_bytes)
        self._max_frame_bytes = max_frame_bytes
        self._frame_timeout_seconds = frame_timeout_seconds
        self._sending = asyncio.Lock()

    async def receive(self) -> bytes:
        """The next frame's body. Raises anyio.EndOfStream at the end, E_FRAME when it breaks."""
        if not self._buffer:
            self._buffer.feed(await self._stream.receive(READ_BYTES))
        if (body := self._buffer.take()) is not None:
            return body
        try:
            with anyio.fail_after(self._frame_timeout_seconds):
                while (body := self._buffer.take()) is None:
                    self._buffer.feed(await self._stream.receive(READ_BYTES))
        except TimeoutError:
            raise E_FRAME(
                f"a frame took over {self._frame_timeout_seconds:g} s to arrive"
            ) from None
        except anyio.EndOfStream:
            raise E_FRAME("the stream ended inside a frame") from None
        return body

    async def send(self, value: object) -> None:
        """Send one value as a frame."""
        await self.send_frame(encode_frame(value, self._max_frame_bytes))

    async def send_frame(self, frame: bytes) -> None:
        """Send what `encode_frame` made."""
        async with self._sending:
            await self._stream.send(frame)

    async def aclose(self) -> None:
        """Close the byte stream."""
        await self._stream.aclose()
