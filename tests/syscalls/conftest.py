"""A kernel that is a script: the SDK talks to it in real frames over a byte stream in memory."""

import math
from collections.abc import AsyncIterator, Callable
from typing import Any

import anyio
import msgspec
import pytest
from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream

from llmos.syscalls.client import System
from llmos.syscalls.errors import SyscallError
from llmos.syscalls.table import TABLE
from llmos.syscalls.tasks import running
from llmos.syscalls.wire import (
    ByteStream,
    Chunk,
    Failure,
    FrameStream,
    FromApp,
    Joined,
    Reply,
    Request,
    decode,
    encode,
)

_from_app = msgspec.msgpack.Decoder(FromApp)
Script = Callable[[Any], msgspec.Struct]


class Pipe:
    """One end of a byte stream in memory."""

    def __init__(
        self, source: MemoryObjectReceiveStream[bytes], sink: MemoryObjectSendStream[bytes]
    ) -> None:
        self._source = source
        self._sink = sink

    async def receive(self, max_bytes: int = 65_536) -> bytes:
        return await self._source.receive()

    async def send(self, item: bytes) -> None:
        await self._sink.send(item)

    async def aclose(self) -> None:
        self._source.close()
        self._sink.close()


def make_pipes() -> tuple[Pipe, Pipe]:
    """Both ends of a byte stream."""
    to_kernel, from_app = anyio.create_memory_object_stream[bytes](math.inf)
    to_app, from_kernel = anyio.create_memory_object_stream[bytes](math.inf)
    return Pipe(from_kernel, to_kernel), Pipe(from_app, to_app)


class ScriptedKernel:
    """The kernel's end. `calls` is what the app has asked for, as (strand, seq, name)."""

    def __init__(self, stream: ByteStream) -> None:
        self.frames = FrameStream(stream)
        self.calls: list[tuple[str, int, str]] = []
        self.joined: list[Joined] = []

    async def receive(self) -> FromApp:
        """The app's next frame."""
        with anyio.fail_after(20):
            frame: FromApp = decode(await self.frames.receive(), _from_app)
        return frame

    async def receive_call(self) -> Request:
        """The app's next call; the end of strands is noted."""
        while isinstance(frame := await self.receive(), Joined):
            self.joined.append(frame)
        assert isinstance(frame, Request)
        self.calls.append((frame.strand, frame.seq, frame.name))
        return frame

    async def reply(self, request: Request, value: msgspec.Struct) -> None:
        """Answer a call."""
        await self.frames.send(Reply(request.strand, request.seq, msgspec.Raw(encode(value))))

    async def fail(self, request: Request, error: SyscallError) -> None:
        """Answer a call with an error."""
        await self.frames.send(Failure(request.strand, request.seq, error.reply()))

    async def chunk(self, request: Request, text: str) -> None:
        """Stream a part of an answer."""
        await self.frames.send(Chunk(request.strand, request.seq, text))

    async def serve(self, script: Script) -> None:
        """Answer every call with what the script makes of it; an error that it raises, too."""
        while True:
            request = await self.receive_call()
            call = msgspec.msgpack.decode(request.args, type=TABLE[request.name].request)
            try:
                await self.reply(request, script(call))
            except SyscallError as error:
                await self.fail(request, error)


@pytest.fixture
async def pipes() -> AsyncIterator[tuple[Pipe, Pipe]]:
    app_end, kernel_end = make_pipes()
    yield app_end, kernel_end
    await app_end.aclose()
    await kernel_end.aclose()


@pytest.fixture
def kernel(pipes: tuple[Pipe, Pipe]) -> ScriptedKernel:
    return ScriptedKernel(pipes[1])


@pytest.fixture
async def system(pipes: tuple[Pipe, Pipe], kernel: ScriptedKernel) -> AsyncIterator[System]:
    """The SDK with its reader running."""
    system = System(FrameStream(pipes[0]))
    async with running() as tasks:
        tasks.start_soon(system.hear)
        yield system
