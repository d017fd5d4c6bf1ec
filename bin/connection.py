"""The client's side of the control socket: find the kernel or become it, ask, hear.

Whoever comes first boots the kernel in its own process; the others connect to it. The embedded
kernel is the daemon's code on the same state directory, reached through the same socket, so there
is one way to talk to it. kernel.main is imported only to embed: a client of a running kernel
starts in a fraction of the time.
"""

import importlib
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, aclosing, asynccontextmanager, suppress
from typing import TYPE_CHECKING, TypeVar

import anyio
import click
import msgspec

from llmos.kernel.config import Config
from llmos.kernel.protocol import MAX_CONTROL_FRAME_BYTES, FromTerminal, Refused, ToTerminal
from llmos.syscalls.errors import E_KERNEL, E_STORAGE, raise_reply
from llmos.syscalls.tasks import running
from llmos.syscalls.wire import ByteStream, FrameStream, decode

from .leaving import Leaving, Left

if TYPE_CHECKING:
    from llmos.kernel.machine import Machine

OTHER_KERNEL_SECONDS = 5.0
POLL_SECONDS = 0.02
FAREWELL_SECONDS = 1.0
T = TypeVar("T")
_events = msgspec.msgpack.Decoder(ToTerminal)


class KernelGone(E_KERNEL):
    """The kernel hung up."""


class Connection:
    """One terminal at the kernel: it makes one request and hears what comes of it."""

    def __init__(self, stream: ByteStream) -> None:
        self._stream = FrameStream(stream, max_frame_bytes=MAX_CONTROL_FRAME_BYTES)

    async def send(self, message: FromTerminal) -> None:
        """Say something to the kernel. KernelGone when it is."""
        try:
            await self._stream.send(message)
        except (anyio.BrokenResourceError, anyio.ClosedResourceError):
            raise KernelGone("the kernel went away") from None

    async def receive(self) -> ToTerminal:
        """What the kernel says next. KernelGone when it is."""
        try:
            body = await self._stream.receive()
        except (anyio.EndOfStream, anyio.BrokenResourceError, anyio.ClosedResourceError):
            raise KernelGone("the kernel went away") from None
        event: ToTerminal = decode(body, _events)
        return event

    async def request(self, message: FromTerminal, answer: type[T]) -> T:
        """Ask for one answer. A refusal is raised as its typed error."""
        await self.send(message)
        return await self.next_answer(answer)

    async def next_answer(self, answer: type[T]) -> T:
        """The next part of an answer that comes in several."""
        reply = await self.receive()
        if isinstance(reply, Refused):
            raise_reply(reply.error)
        if not isinstance(reply, answer):
            raise E_KERNEL(f"the kernel answered {type(reply).__name__}")
        return reply

    async def aclose(self) -> None:
        """Hang up."""
        await self._stream.aclose()


async def try_connect(config: Config) -> Connection | None:
    """A connection to the kernel of this state directory, or None when none runs."""
    try:
        return Connection(await anyio.connect_unix(config.socket))
    except (FileNotFoundError, ConnectionRefusedError):
        return None


@asynccontextmanager
async def reach_kernel(
    config: Config, *, model: str | None = None, prepare: bool = False
) -> AsyncIterator[Connection]:
    """A connection to the kernel, which is booted in this process when none runs.

    With `prepare` an embedded kernel starts to load `model` (None: the default one) at once. It
    stays after its own terminal is done as long as processes of other terminals run in it. Raises
    Left at the end when a signal said that the person has left.
    """
    leaving = Leaving()
    async with AsyncExitStack() as stack:
        tasks = await stack.enter_async_context(running())
        tasks.start_soon(leaving.watch)
        machine: Machine | None = None
        connection = await try_connect(config)
        if connection is None:
            machine, connection = await _join_or_boot(config, stack)
        if machine is not None and prepare:
            machine.prepare_model(model)
        try:
            async with aclosing(connection), anyio.create_task_group() as group:
                leaving.ends(group.cancel_scope)
                if machine is not None:
                    group.start_soon(_hang_up_when_stopping, machine, connection)
                yield connection
                group.cancel_scope.cancel()
        finally:  # also when this terminal fails: the others have done nothing wrong
            if machine is not None:
                await _wait_for_other_terminals(machine)
    leaving.check()


def run_client(attempt: Callable[[], Awaitable[T]]) -> T:
    """What `attempt` returns; SystemExit with 128 and a signal's number when the person left."""
    try:
        return anyio.run(retry_once, attempt)
    except Left as left:
        raise SystemExit(left.exit_code) from None
    except KeyboardInterrupt:
        raise click.Abort from None  # click itself would print an empty line first


async def retry_once(attempt: Callable[[], Awaitable[T]]) -> T:
    """Do it again if the kernel was about to leave when it was reached."""
    try:
        return await attempt()
    except KernelGone:
        return await attempt()


async def _join_or_boot(
    config: Config, stack: AsyncExitStack
) -> "tuple[Machine | None, Connection]":
    """A connection to a kernel that comes up elsewhere, or to one that lives as long as `stack`.

    Another one may just be leaving, so both are tried in turn. E_STORAGE when it takes too long.
    """
    machine: Machine | None = None
    deadline = anyio.current_time() + OTHER_KERNEL_SECONDS
    while True:
        if machine is None:
            machine = await _boot(config, stack)
        connection = await try_connect(config)
        if connection is not None:
            return machine, connection
        if anyio.current_time() > deadline:
            raise E_STORAGE(
                f"another kernel holds {config.home} but nobody answers at its socket"
                f" {config.socket}",
            )
        await anyio.sleep(POLL_SECONDS)


async def _boot(config: Config, stack: AsyncExitStack) -> "Machine | None":
    """Boot a kernel that lives as long as `stack`; None while somebody else's holds the state."""
    kernel = importlib.import_module("llmos.kernel.main")
    try:
        machine: Machine = await stack.enter_async_context(kernel.boot(config))
    except E_STORAGE as error:
        if error.field != "lock":
            raise
        return None
    return machine


async def _hang_up_when_stopping(machine: "Machine", connection: Connection) -> None:
    """Another terminal may stop the kernel that this one embeds."""
    await machine.stopping.wait()
    await connection.aclose()


async def _wait_for_other_terminals(machine: "Machine") -> None:
    with anyio.move_on_after(FAREWELL_SECONDS) as soon:
        await machine.wait_idle()
    if soon.cancelled_caught and not machine.stopping.is_set():
        with suppress(OSError):  # the terminal may be closed
            print(
                "llmos: processes of other terminals run in this one's kernel; it waits for them",
                file=sys.stderr,
            )
        await machine.wait_idle()
