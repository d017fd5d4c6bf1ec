"""The apps' gate: one inherited socketpair per process, HELLO first, then calls.

A stream that breaks its rules is closed with a reason and ends its process; nobody else notices.
"""

import asyncio
import hmac
import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress

import anyio
import msgspec

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
    Idle,
    Joined,
    Reply,
    Request,
    Welcome,
    decode,
)

from ..admission import admit, join
from ..dispatch import dispatch, fail_request
from ..handlers import Send
from ..machine import Machine
from ..process import Process

HELLO_TIMEOUT_SECONDS = 10.0
GOODBYE_TIMEOUT_SECONDS = 1.0
Answer = Callable[[Machine, Process, Request, bool, Send], Awaitable[None]]
logger = logging.getLogger(__name__)
_from_app = msgspec.msgpack.Decoder(FromApp)


async def serve_app(
    machine: Machine, process: Process, stream: ByteStream, token: str, answer: Answer = dispatch
) -> Exit | None:
    """Serve a process until its Exit frame, which is returned; None if it left without one.

    `answer` performs an admitted call and sends its reply.
    """
    frames = FrameStream(stream)
    try:
        await _greet(process, frames, token)
        return await _Calls(machine, process, frames, answer).serve()
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


class _Calls:
    """A process's calls. The worker that has received one handles it while another receives.

    That is leader and followers (Schmidt et al., Pattern-Oriented Software Architecture 2, 2000):
    a call costs no task of its own, and does not wait for one to have its turn.
    """

    def __init__(
        self, machine: Machine, process: Process, frames: FrameStream, answer: Answer
    ) -> None:
        self._machine = machine
        self._answer = answer
        self._process = process
        self._frames = frames
        self._workers = anyio.create_task_group()
        self._follower: asyncio.Future[None] | None = None  # the worker that is to receive next
        self._ending: Exit | Exception = anyio.EndOfStream()

    async def serve(self) -> Exit:
        """Serve until the Exit frame; the end of the stream, which is raised, cancels calls."""
        async with self._workers:
            self._workers.start_soon(self._work)
        if isinstance(self._ending, Exit):
            return self._ending
        raise self._ending

    async def _work(self) -> None:
        while (call := await self._receive_call()) is not None:
            self._let_another_receive()
            await self._answer(self._machine, self._process, *call, self._send)
            if self._follower is not None:
                return
            self._follower = asyncio.get_running_loop().create_future()
            await self._follower
        self._process.has_left = True
        self._workers.cancel_scope.cancel()

    def _let_another_receive(self) -> None:
        if self._follower is None or self._follower.done():  # done: it was cancelled
            self._workers.start_soon(self._work)
        else:
            if not self._follower.done():  # cancelled with all the others, as this one will be
                self._follower.set_result(None)
            self._follower = None

    async def _receive_call(self) -> tuple[Request, bool] | None:
        """The next call that is admitted, and whether it comes again; None at the end."""
        try:
            while True:
                frame = decode(await self._frames.receive(), _from_app)
                if self._process.leaving is not None:
                    return None  # what is not heard has not been said: a replay says it again
                match frame:
                    case Request() as request:
                        try:
                            return request, admit(self._process, request)
                        except SyscallError as error:
                            await self._send(fail_request(request, error))
                    case Cancel() as cancel:
                        call = self._process.in_flight.get((cancel.strand, cancel.seq))
                        if call is not None and self._process.next_argv is None:
                            call.abandon()
                    case Joined() as joined:
                        join(self._process, joined)
                    case Idle() as idle:
                        self._process.tell_idle(idle.is_idle)
                    case Hello():
                        raise E_FRAME("a second HELLO")
                    case Exit() as ending:
                        self._ending = ending
                        return None
        except (*GONE, SyscallError) as error:
            self._ending = error
            return None

    async def _send(self, value: object) -> None:
        try:
            await self._frames.send(value)
        except GONE:
            return  # the reader sees the end of the stream too, and acts on it
        except E_ARG as error:
            if not isinstance(value, Reply):
                raise
            failure = Failure(value.strand, value.seq, E_LIMIT(error.message).reply())
            await self._frames.send(failure)


async def _part(frames: FrameStream, error: SyscallError) -> None:
    """Say why, if the other end still listens, and close."""
    with anyio.move_on_after(GOODBYE_TIMEOUT_SECONDS), suppress(*GONE):
        await frames.send(Goodbye(error.reply()))
    await frames.aclose()
