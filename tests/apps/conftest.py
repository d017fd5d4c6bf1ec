"""A kernel in memory for apps: real frames over a socket pair, answers by a table of functions."""

import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import anyio
import msgspec
import pytest
from anyio.abc import UNIXSocketStream

from llmos.syscalls.client import System
from llmos.syscalls.errors import SyscallError
from llmos.syscalls.generate import Generation
from llmos.syscalls.ipc import Answer, Print, Printed
from llmos.syscalls.memory import ContextCreated, ContextLength
from llmos.syscalls.table import TABLE
from llmos.syscalls.types import Usage
from llmos.syscalls.wire import Failure, FrameStream, Reply, Request, decode, encode

Answers = dict[str, Callable[[Any], msgspec.Struct]]
_requests = msgspec.msgpack.Decoder(Request)


class KernelInMemory:
    """Answers syscalls at once; tests replace rows of `answers` and read what was called."""

    def __init__(self) -> None:
        self.calls: list[Any] = []
        self.lines: list[str | None] = []
        self.answers: Answers = {
            "print": lambda call: Printed(0),
            "ask": lambda call: Answer(self.lines.pop(0) if self.lines else None),
            "context_create": lambda call: ContextCreated(1),
            "context_append": lambda call: ContextLength(len(call.messages)),
            "generate": lambda call: generation(call.messages[-1].content),
        }

    def named(self, kind: type[Any]) -> list[Any]:
        """The calls of one kind."""
        return [call for call in self.calls if isinstance(call, kind)]

    @property
    def printed(self) -> str:
        """What the app has printed."""
        return "".join(call.text for call in self.named(Print))

    async def serve(self, stream: FrameStream) -> None:
        """Answer until the app hangs up."""
        while True:
            try:
                request = decode(await stream.receive(), _requests)
            except anyio.EndOfStream:
                return
            row = TABLE[request.name]
            call = decode(request.args, msgspec.msgpack.Decoder(row.request))
            self.calls.append(call)
            await stream.send(self._answer(request, call))

    def _answer(self, request: Request, call: msgspec.Struct) -> Reply | Failure:
        try:
            value = self.answers[request.name](call)
        except SyscallError as error:
            return Failure(request.strand, request.seq, error.reply())
        return Reply(request.strand, request.seq, msgspec.Raw(encode(value)))

    @asynccontextmanager
    async def system(self) -> AsyncIterator[System]:
        """An app's System that is connected to this kernel."""
        ours, theirs = [
            FrameStream(await UNIXSocketStream.from_socket(end)) for end in socket.socketpair()
        ]
        system = System(theirs)
        async with anyio.create_task_group() as group:
            group.start_soon(self.serve, ours)
            group.start_soon(system.hear)
            yield system
            group.cancel_scope.cancel()
        await ours.aclose()
        await theirs.aclose()


def generation(text: str) -> Generation:
    """A model's answer without tool calls."""
    return Generation(text, (), "stop", Usage(1, 0, 1), "echo", 0)


@pytest.fixture
def kernel() -> KernelInMemory:
    return KernelInMemory()
