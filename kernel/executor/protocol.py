"""What the kernel and an executor process say to each other, as msgpack frames.

A frame is a 4-byte big-endian length and that many bytes of msgpack: one tagged struct. Both ends
are ours and trusted, so a malformed frame is a fault that ends the process. A generation is named
by an id of the kernel's choosing, never used twice on one connection.
"""

import select
import socket
import struct
from typing import Generic, TypeVar

import msgspec

from llmos.syscalls.errors import ErrorReply
from llmos.syscalls.types import FinishReason, Message, Sampling, ToolCall, ToolSpec, Usage

MAX_FRAME_BYTES = 16 << 20
LENGTH = struct.Struct(">I")
_READ_BYTES = 1 << 16


class Load(msgspec.Struct, frozen=True, tag="load"):
    """First message. `model` is a folder or a hub id; None and "auto" let the executor choose."""

    model: str
    device: str = "auto"
    dtype: str = "auto"
    max_model_len: int | None = None


class Generate(msgspec.Struct, frozen=True, tag="generate"):
    """Continue `messages`. Only equal tenants share pages."""

    id: int
    messages: tuple[Message, ...]
    tools: tuple[ToolSpec, ...] = ()
    sampling: Sampling = Sampling()
    tenant: str = ""


class Cancel(msgspec.Struct, frozen=True, tag="cancel"):
    """End a generation; it answers Failed with E_CANCELLED and its text so far."""

    id: int


class Pause(msgspec.Struct, frozen=True, tag="pause"):
    """Take a generation out of the batch; its pages stay cached while there is room."""

    id: int


class Resume(msgspec.Struct, frozen=True, tag="resume"):
    """Put a paused generation back in line."""

    id: int


class Stats(msgspec.Struct, frozen=True, tag="stats"):
    """Ask for a StatsReply."""


class Loaded(msgspec.Struct, frozen=True, tag="loaded"):
    """The model is ready. Equal fingerprints give equal tokens for equal requests."""

    model: str
    architecture: str
    num_parameters: int
    max_model_len: int
    page_size: int
    num_pages: int
    fingerprint: str
    device: str
    dtype: str
    load_seconds: float


class LoadFailed(msgspec.Struct, frozen=True, tag="load_failed"):
    """The model cannot be loaded; the executor ends."""

    error: ErrorReply


class Token(msgspec.Struct, frozen=True, tag="token"):
    """More text of a generation; `num_tokens` have been sampled so far."""

    id: int
    text: str
    num_tokens: int


class Done(msgspec.Struct, frozen=True, tag="done"):
    """A generation's whole result; `text` is its Token texts joined, `tokens` what was sampled."""

    id: int
    text: str
    tokens: tuple[int, ...]
    tool_calls: tuple[ToolCall, ...]
    finish_reason: FinishReason
    usage: Usage


class Failed(msgspec.Struct, frozen=True, tag="failed"):
    """A generation ended without a result."""

    id: int
    error: ErrorReply


class StatsReply(msgspec.Struct, frozen=True, tag="stats_reply"):
    """Counts at this moment; `num_steps` and after count since the load."""

    num_running: int
    num_waiting: int
    num_paused: int
    num_pages: int
    num_pages_free: int
    num_pages_cached: int
    num_steps: int
    num_preemptions: int
    num_prompt_tokens: int
    num_cached_tokens: int
    num_completion_tokens: int


FromKernel = Load | Generate | Cancel | Pause | Resume | Stats
FromExecutor = Loaded | LoadFailed | Token | Done | Failed | StatsReply
Output = Token | Done | Failed

_encoder = msgspec.msgpack.Encoder()
T = TypeVar("T")


def encode_frame(message: FromKernel | FromExecutor) -> bytes:
    """One message as a frame. Raises ValueError past MAX_FRAME_BYTES."""
    body = _encoder.encode(message)
    if len(body) > MAX_FRAME_BYTES:
        raise ValueError(f"a message of {len(body)} bytes; a frame holds {MAX_FRAME_BYTES}")
    return LENGTH.pack(len(body)) + body


class FrameDecoder(Generic[T]):
    """Turns bytes as they arrive into messages of one union. Raises ValueError on a bad length."""

    def __init__(self, kind: "type[T]") -> None:
        self._decoder: msgspec.msgpack.Decoder[T] = msgspec.msgpack.Decoder(kind)
        self._buffer = bytearray()

    def feed(self, data: bytes) -> list[T]:
        """The messages that `data` completes, in order."""
        self._buffer += data
        messages: list[T] = []
        while len(self._buffer) >= LENGTH.size:
            (length,) = LENGTH.unpack_from(self._buffer)
            if not 0 < length <= MAX_FRAME_BYTES:
                raise ValueError(f"a frame of {length} bytes")
            end = LENGTH.size + length
            if len(self._buffer) < end:
                break
            messages.append(self._decoder.decode(self._buffer[LENGTH.size : end]))
            del self._buffer[:end]
        return messages


class Channel:
    """The executor's blocking end of the socket."""

    def __init__(self, connection: socket.socket) -> None:
        self._socket = connection
        self._frames: FrameDecoder[FromKernel] = FrameDecoder(FromKernel)  # type: ignore[arg-type]

    def receive(self, *, wait: bool) -> list[FromKernel]:
        """The messages that have arrived; with `wait`, at least one. Raises EOFError at the end."""
        messages: list[FromKernel] = []
        while (wait and not messages) or select.select([self._socket], [], [], 0)[0]:
            data = self._socket.recv(_READ_BYTES)
            if not data:
                raise EOFError("the kernel closed the connection")
            messages += self._frames.feed(data)
        return messages

    def send(self, messages: list[FromExecutor]) -> None:
        """Send messages in order, in one write."""
        if messages:
            self._socket.sendall(b"".join(encode_frame(message) for message in messages))
