"""What the kernel and an executor process say to each other, as msgpack frames.

A frame (see syscalls/frames.py) holds one tagged struct. Both ends are ours and trusted, so a
malformed frame is a fault that ends the process. A generation is named by an id of the kernel's
choosing, never used twice on one connection.
"""

import select
import socket
from typing import Generic, Literal, TypeVar

import msgspec

from llmos.syscalls.errors import ErrorReply
from llmos.syscalls.frames import READ_BYTES, FrameBuffer, pack_frame
from llmos.syscalls.types import (
    FinishReason,
    Grammar,
    Message,
    Sampling,
    TokenLogprobs,
    TokenScore,
    ToolCall,
    ToolSpec,
    Usage,
)

from ..stats import StatsReply, TraceReply

MAX_FRAME_BYTES = 16 << 20


class Load(msgspec.Struct, frozen=True, tag="load"):
    """First message. `model` is a folder or a hub id; None and "auto" let the executor choose.

    Pages are kept in `page_folder`, over the executor's end, up to so many bytes; without a folder
    they are not kept. On the device they may take `max_pool_bytes`, for which the kernel has looked
    at what else is there; None is a share of what is free.
    """

    model: str
    device: str = "auto"
    dtype: str = "auto"
    max_model_len: int | None = None
    page_folder: str | None = None
    max_page_folder_bytes: int | None = None
    max_pool_bytes: int | None = None


class Generate(msgspec.Struct, frozen=True, tag="generate"):
    """Continue `messages`. Only equal tenants share pages; `owner` is the process they are for.

    `emitted` are tokens that an executor before this one gave for the same request: the answer goes
    on after them, and they count as part of it. The whole answer fits `grammar`; `tool_choice` is
    "auto", "required" (it is a call of one of `tools`) or the name of the tool that is called.
    """

    id: int
    messages: tuple[Message, ...]
    tools: tuple[ToolSpec, ...] = ()
    sampling: Sampling = Sampling()
    tenant: str = ""
    emitted: tuple[int, ...] = ()
    grammar: Grammar | None = None
    tool_choice: str = "auto"
    owner: int = 0


class Score(msgspec.Struct, frozen=True, tag="score"):
    """Tell how likely each continuation is as the beginning of the answer to `messages`."""

    id: int
    messages: tuple[Message, ...]
    continuations: tuple[str, ...]
    tenant: str = ""
    owner: int = 0


class Embed(msgspec.Struct, frozen=True, tag="embed"):
    """Turn texts into vectors."""

    id: int
    texts: tuple[str, ...]
    tenant: str = ""
    owner: int = 0


class Cancel(msgspec.Struct, frozen=True, tag="cancel"):
    """End a generation; it answers Failed with E_CANCELLED and its text so far."""

    id: int


class Pause(msgspec.Struct, frozen=True, tag="pause"):
    """Take a generation out of the batch; its pages stay cached while there is room."""

    id: int


class Resume(msgspec.Struct, frozen=True, tag="resume"):
    """Put a paused generation back in line."""

    id: int


class Hint(msgspec.Struct, frozen=True, tag="hint"):
    """An owner waits for a tool or a person, for so long (None: as long as such a wait is), or
    is gone. Pages that only it used are given up accordingly."""

    owner: int
    kind: Literal["tool", "person", "gone"]
    expected_idle_seconds: float | None = None


class Stats(msgspec.Struct, frozen=True, tag="stats"):
    """Ask for a StatsReply."""


class BeginTrace(msgspec.Struct, frozen=True, tag="begin_trace"):
    """Record steps from now on."""


class EndTrace(msgspec.Struct, frozen=True, tag="end_trace"):
    """Stop recording; answered by a TraceReply."""


class Loaded(msgspec.Struct, frozen=True, tag="loaded"):
    """The model is ready. Equal fingerprints give equal tokens for equal requests.

    `warnings` are lines for the person who chose the model.
    """

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
    warnings: tuple[str, ...] = ()


class LoadFailed(msgspec.Struct, frozen=True, tag="load_failed"):
    """The model cannot be loaded; the executor ends."""

    error: ErrorReply


class Token(msgspec.Struct, frozen=True, tag="token"):
    """More text of a generation; `num_tokens` have been sampled so far.

    `tokens` are those since the last Token: all of them so far make all of the text so far.
    """

    id: int
    text: str
    num_tokens: int
    tokens: tuple[int, ...] = ()
    logprobs: tuple[TokenLogprobs, ...] = ()


class Done(msgspec.Struct, frozen=True, tag="done"):
    """A generation's whole result; `text` begins with its Token texts, `tokens` are all sampled.

    `logprobs`, where asked for, are those of the tokens that were sampled here.
    """

    id: int
    text: str
    tokens: tuple[int, ...]
    tool_calls: tuple[ToolCall, ...]
    finish_reason: FinishReason
    usage: Usage
    logprobs: tuple[TokenLogprobs, ...] = ()


class Scored(msgspec.Struct, frozen=True, tag="scored"):
    """The tokens of each continuation with their log-probabilities."""

    id: int
    tokens: tuple[tuple[TokenScore, ...], ...]
    usage: Usage


class Embedded(msgspec.Struct, frozen=True, tag="embedded"):
    """A vector of length 1 for each text, as little-endian float32."""

    id: int
    vectors: tuple[bytes, ...]
    usage: Usage


class Failed(msgspec.Struct, frozen=True, tag="failed"):
    """A generation ended without a result."""

    id: int
    error: ErrorReply


class Heartbeat(msgspec.Struct, frozen=True, tag="heartbeat"):
    """The executor works, and has had nothing else to say for a second."""


FromKernel = (
    Load | Generate | Score | Embed | Cancel | Pause | Resume | Hint | Stats | BeginTrace | EndTrace
)
Output = Token | Done | Scored | Embedded | Failed
FromExecutor = Loaded | LoadFailed | Output | StatsReply | TraceReply | Heartbeat

_encoder = msgspec.msgpack.Encoder()
T = TypeVar("T")


def encode_frame(message: FromKernel | FromExecutor) -> bytes:
    """One message as a frame. Raises E_ARG past MAX_FRAME_BYTES."""
    return pack_frame(_encoder.encode(message), MAX_FRAME_BYTES)


class FrameDecoder(Generic[T]):
    """Turns bytes as they arrive into messages of one union. Raises E_FRAME on a bad length."""

    def __init__(self, kind: "type[T]") -> None:
        self._decoder: msgspec.msgpack.Decoder[T] = msgspec.msgpack.Decoder(kind)
        self._buffer = FrameBuffer(MAX_FRAME_BYTES)

    def feed(self, data: bytes) -> list[T]:
        """The messages that `data` completes, in order."""
        self._buffer.feed(data)
        messages: list[T] = []
        while (body := self._buffer.take()) is not None:
            messages.append(self._decoder.decode(body))
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
            data = self._socket.recv(READ_BYTES)
            if not data and messages:
                break  # they are acted on; the next call says that it is the end
            if not data:
                raise EOFError("the kernel closed the connection")
            messages += self._frames.feed(data)
        return messages

    def send(self, messages: list[FromExecutor]) -> None:
        """Send messages in order, in one write."""
        if messages:
            self._socket.sendall(b"".join(encode_frame(message) for message in messages))
