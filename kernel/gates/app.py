"""The apps' gate: one inherited socketpair per process, HELLO first, then calls.

A stream that breaks its rules is closed with a reason and ends its process; nobody else notices.
"""

import hmac
import logging
from contextlib import suppress

import anyio
import msgspec
from anyio.abc import TaskGroup

from llmos.syscalls.errors import E_ARG, E_FRAME, E_LIMIT, E_PERM, SyscallError
from llmos.syscalls.wire import (
    GONE,
    PROTOCOL_VERSION,
    ByteStream,
    Cancel,
    Exit,
    Failure,
    FrameStream,
    FromApp,
    Goodbye,
    Hello,
    Joined,
    Reply,
    Request,
    Welcome,
    decode,
)

from ..admission import admit, join
from ..dispatch import dispatch, fail_request
from ..machine import Machine
from ..process import Process

HELLO_TIMEOUT_SECONDS = 10.0
GOODBYE_TIMEOUT_SECONDS = 1.0
logger = logging.getLogger(__name__)
_from_app = msgspec.msgpack.Decoder(FromApp)


async def serve_app(
    machine: Machine, process: Process, stream: ByteStream, token: str
) -> Exit | None:
    """Serve a process until its Exit frame, which is returned; None if it left without one."""
    frames = FrameStream(stream)
    try:
        await _greet(process, frames, token)
        return await _serve_calls(machine, process, frames)
    except GONE:
        return None
    except SyscallError as error:
        logger.warning("process %d: %s", process.pid, error)
        await _part(frames, error)
        return Exit(1, error=error.reply())


async def _greet(process: Process, frames: FrameStream, token: str) -> None:
    """HELLO must come first, in time, from the process that this socket was made for."""
    hello = decode(await _receive_first(process, frames), _from_app)
    if not isinstance(hello, Hello):
        raise E_FRAME("the first frame is not HELLO")
    if hello.version != PROTOCOL_VERSION:
        raise E_FRAME(f"version {hello.version}; this kernel speaks {PROTOCOL_VERSION}")
    if hello.pid != process.pid or not hmac.compare_digest(hello.token.encode(), token.encode()):
        raise E_PERM("HELLO does not belong to this process", field="token")
    await frames.send(Welcome(process.pid, process.spec.argv))
    process.state = "READY" if process.state == "NEW" else process.state
    process.greeted.set()


async def _receive_first(process: Process, frames: FrameStream) -> bytes:
    """The first frame, in time; a process that was stopped before it said HELLO has more."""
    while True:
        with anyio.move_on_after(HELLO_TIMEOUT_SECONDS):
            return await frames.receive()
        if process.state != "STOPPED":
            raise E_FRAME(f"no HELLO within {HELLO_TIMEOUT_SECONDS:g} s")


async def _serve_calls(machine: Machine, process: Process, frames: FrameStream) -> Exit:
    """Each call runs in a task of its own; the end of the stream cancels those that are left."""
    ending: Exit | None = None
    broken: Exception | None = None
    async with anyio.create_task_group() as calls:
        try:
            ending = await _read_calls(machine, process, frames, calls)
        except (*GONE, SyscallError) as error:
            broken = error
        process.has_left = True
        calls.cancel_scope.cancel()
    if ending is None:
        raise broken or anyio.EndOfStream
    return ending


async def _read_calls(
    machine: Machine, process: Process, frames: FrameStream, calls: TaskGroup
) -> Exit:
    async def send(value: object) -> None:
        try:
            await frames.send(value)
        except GONE:
            return  # the reader sees the end of the stream too, and acts on it
        except E_ARG as error:
            if not isinstance(value, Reply):
                raise
            await frames.send(Failure(value.strand, value.seq, E_LIMIT(error.message).reply()))

    while True:
        match decode(await frames.receive(), _from_app):
            case Request() as request:
                try:
                    again = admit(process, request)
                except SyscallError as error:
                    await send(fail_request(request, error))
                else:
                    calls.start_soon(dispatch, machine, process, request, again, send)
            case Cancel() as cancel:
                call = process.in_flight.get((cancel.strand, cancel.seq))
                if call is not None:
                    call.cancel()
            case Joined() as joined:
                join(process, joined)
            case Hello():
                raise E_FRAME("a second HELLO")
            case Exit() as ending:
                return ending


async def _part(frames: FrameStream, error: SyscallError) -> None:
    """Say why, if the other end still listens, and close."""
    with anyio.move_on_after(GOODBYE_TIMEOUT_SECONDS), suppress(*GONE):
        await frames.send(Goodbye(error.reply()))
    await frames.aclose()
