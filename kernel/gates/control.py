"""The control gate: people reach the kernel by a Unix socket that only they may open.

A connection is a terminal. It makes one request; a Run or Resume is served until its process has
ended. A person who leaves (a window that is closed, a connection that is lost) takes the processes
of the terminal along, also what sleeps: they get TERM and have ended for good. What is to outlive
its terminal is started with `detach`. A kernel that ends does no such thing: its processes go on
in the next one, without a person until one comes with `resume`.
"""

import logging
import os
import socket
import stat
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from functools import partial

import anyio
import msgspec
from anyio.abc import SocketAttribute, SocketStream

import llmos
from llmos.memory.logs import read_output
from llmos.syscalls.errors import E_ARG, E_MODEL, E_PERM, SyscallError
from llmos.syscalls.process import Signalled
from llmos.syscalls.tasks import running
from llmos.syscalls.wire import GONE, FrameStream, decode

from ..history import read_history
from ..inspection import inspect
from ..listing import list_processes, require_record
from ..machine import Machine
from ..process import End
from ..protocol import (
    MAX_CONTROL_FRAME_BYTES,
    Ended,
    Fork,
    FromTerminal,
    Input,
    Inspect,
    Interrupt,
    Kill,
    KillReply,
    ListProcesses,
    LogPiece,
    ModelStatsReply,
    Notice,
    ProcessListing,
    ReadLog,
    ReadModelStats,
    ReadStatus,
    ReadTrace,
    Refused,
    Replay,
    Resume,
    Run,
    Shutdown,
    Started,
    StatusReply,
    TraceModel,
    TracePiece,
)
from ..stats import StatsReply
from ..terminal import Terminal
from ..tracing import read_trace

_from_terminal = msgspec.msgpack.Decoder(FromTerminal)
_ucred = struct.Struct("3i")
logger = logging.getLogger(__name__)


@asynccontextmanager
async def open_control_gate(machine: Machine) -> AsyncIterator[None]:
    """Listen on the state directory's socket while the context lasts."""
    path = machine.config.socket
    unlink = partial(path.unlink, missing_ok=True)
    unlink()
    listener = await anyio.create_unix_listener(path, mode=stat.S_IRUSR | stat.S_IWUSR)

    async def serve(stream: SocketStream) -> None:
        async with stream:
            await serve_terminal(machine, stream)

    async def listen() -> None:
        async with listener:
            await listener.serve(serve)

    machine.tasks.start_soon(listen)
    try:
        yield
    finally:
        unlink()


def check_peer(stream: SocketStream) -> None:
    """Only the user that runs the kernel may speak to it. E_PERM."""
    raw: socket.socket = stream.extra(SocketAttribute.raw_socket)
    if hasattr(socket, "SO_PEERCRED"):
        credentials = raw.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _ucred.size)
        _, uid, _ = _ucred.unpack(credentials)
        if uid != os.getuid():
            raise E_PERM("this kernel belongs to another user")


async def serve_terminal(machine: Machine, stream: SocketStream) -> None:
    """Answer one connection; whatever is wrong with it is its own affair."""
    frames = FrameStream(stream, max_frame_bytes=MAX_CONTROL_FRAME_BYTES)
    try:
        try:
            check_peer(stream)
            request = decode(await frames.receive(), _from_terminal)
            await _answer(machine, frames, request)
        except SyscallError as error:
            await frames.send(Refused(error.reply()))
    except GONE:
        return


async def _answer(machine: Machine, frames: FrameStream, request: FromTerminal) -> None:
    match request:
        case Run():
            await _run(machine, frames, request)
        case Resume():
            terminal = await machine.launcher.attach(request.pid)
            machine.launcher.recover()
            await _attend(machine, frames, terminal, request.pid)
        case ListProcesses():
            await frames.send(ProcessListing(await list_processes(machine, request.limit)))
        case Fork():
            await _fork(machine, frames, request)
        case ReadLog():
            await _send_log(machine, frames, request.pid)
        case Replay():
            async with _until_hung_up(frames):
                await frames.send(await machine.launcher.replay(request.pid))
        case Inspect():
            async for part in inspect(machine, request.pid, request.at):
                await frames.send(part)
        case ReadTrace():
            async for piece in read_trace(machine, request.pid):
                await frames.send(piece)
            await frames.send(TracePiece())
        case Kill():
            delivered = await machine.launcher.deliver(request.pid, request.name)
            await frames.send(KillReply(Signalled(delivered)))
        case ReadStatus():
            await frames.send(_status(machine))
        case ReadModelStats():
            await frames.send(await _collect_stats(machine, request.model))
        case TraceModel():
            await _trace(machine, frames, request)
        case Shutdown():
            await frames.send(_status(machine))
            machine.stopping.set()
        case Input() | Interrupt():
            raise E_ARG("there is no process at this terminal")


async def _run(machine: Machine, frames: FrameStream, request: Run) -> None:
    """Start a process and stay with it, unless it is to run on its own: until somebody comes."""
    terminal = Terminal(is_attended=False)
    birth = machine.launcher.prepare(
        request.app,
        request.argv,
        workspace=request.workspace,
        readable=request.readable,
        model=request.model,
        parent=None,
    )
    pid = await machine.db.write(lambda connection: machine.launcher.record(connection, birth))
    machine.launcher.start(pid, birth, terminal)
    machine.launcher.recover()  # a kernel that was booted for a look at it leaves all as it is
    if request.detach:
        await frames.send(Started(pid))
    else:
        terminal.attend(pid)
        await _attend(machine, frames, terminal, pid)


async def _fork(machine: Machine, frames: FrameStream, request: Fork) -> None:
    """Start a fork and stay with it, unless it is to run on its own: until somebody comes."""
    terminal = Terminal(is_attended=not request.detach)
    process = await machine.launcher.fork(
        request.pid, request.at, terminal, model=request.model, sampling=request.sampling
    )
    machine.launcher.recover()
    if request.detach:
        await frames.send(Started(process.pid))
    else:
        await _attend(machine, frames, terminal, process.pid)


async def _attend(machine: Machine, frames: FrameStream, terminal: Terminal, pid: int) -> None:
    """Be the process's terminal until it has ended or the person has left."""
    done, end = anyio.Event(), machine.table.end_of(pid)
    machine.attending[done] = end
    try:
        await _show(machine, frames, terminal, end)
        await _hang_up(machine, terminal, pid, end)
    finally:
        del machine.attending[done]
        done.set()


async def _show(machine: Machine, frames: FrameStream, terminal: Terminal, end: End) -> None:
    """Show what happens and hear what the person does until either is over."""
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(_listen, machine, frames, terminal)
        tasks.start_soon(_end, terminal, end)
        try:
            while (event := await terminal.next_event()) is not None:
                await frames.send(event)
        except GONE:
            terminal.close()
        tasks.cancel_scope.cancel()


async def _hang_up(machine: Machine, terminal: Terminal, pid: int, end: End) -> None:
    """End what the terminal leaves behind, and its process if that sleeps."""
    sender = "the end of its terminal"
    for left in machine.table:
        if left.terminal is terminal:
            machine.launcher.signal(left, "TERM", sender=sender)
    if not end.told.is_set() and machine.table.get(pid) is None:
        await machine.launcher.deliver(pid, "TERM", sender=sender)


async def _end(terminal: Terminal, end: End) -> None:
    """When the process has ended, that is the last event."""
    await end.told.wait()
    if end.exit is not None:
        terminal.emit(Ended(end.exit, end.error))
    elif end.error is not None:
        terminal.emit(Refused(end.error))
    terminal.close()


async def _listen(machine: Machine, frames: FrameStream, terminal: Terminal) -> None:
    """What the person does, until they hang up."""
    while True:
        try:
            request = decode(await frames.receive(), _from_terminal)
        except (*GONE, SyscallError):
            terminal.close()
            return
        try:
            await _obey(machine, terminal, request)
        except SyscallError as error:
            terminal.emit(Notice(error.message))


async def _obey(machine: Machine, terminal: Terminal, request: FromTerminal) -> None:
    """An answer, for whoever asked it; Ctrl-C, for the process in front."""
    match request:
        case Input():
            asker = terminal.answer(request.ask, request.text)
            if asker is not None:
                await machine.launcher.wake_if_asleep(asker)
        case Interrupt():
            if terminal.front is not None:
                await machine.launcher.deliver(terminal.front, "TERM")
        case _:
            terminal.emit(Refused(E_ARG("one request per connection").reply()))


async def _send_log(machine: Machine, frames: FrameStream, pid: int) -> None:
    """Send what a process wrote and called, a piece at a time: it may be more than memory holds."""
    await require_record(machine, pid)
    async for text in read_output(machine.db, pid):
        await frames.send(LogPiece(pid, output=text))
    async for rows in read_history(machine, pid):
        await frames.send(LogPiece(pid, rows=rows))
    await frames.send(LogPiece(pid, is_last=True))


def _find_loaded(machine: Machine, name: str | None) -> tuple[str, ...]:
    """The loaded models that a request means. E_MODEL if there are none."""
    loaded = machine.models.loaded()
    if name is None and loaded:
        return loaded
    if name is None or name not in loaded:
        what = f"{name} is not loaded" if name else "no model is loaded"
        loads = "a process loads its model when it needs it: llmos run ask hello"
        raise E_MODEL(f"{what}; loaded: {', '.join(loaded) or 'none'}; fix: {loads}", field="model")
    return (name,)


async def _collect_stats(machine: Machine, name: str | None) -> ModelStatsReply:
    found: dict[str, StatsReply] = {}
    for one in _find_loaded(machine, name):
        replicas = await machine.models.get(one).driver.collect_stats()
        names = [one] if len(replicas) == 1 else [f"{one}#{n}" for n in range(len(replicas))]
        found |= dict(zip(names, replicas, strict=True))
    return ModelStatsReply(found)


async def _trace(machine: Machine, frames: FrameStream, request: TraceModel) -> None:
    """Send the record when it is over; who hangs up before ends it."""
    names = _find_loaded(machine, request.model)
    if len(names) > 1:
        raise E_ARG(f"several models are loaded; name one of {', '.join(names)}", field="model")
    driver = machine.models.get(names[0]).driver
    async with _until_hung_up(frames):
        trace = await driver.trace(request.seconds)
        if trace is None:
            raise E_MODEL(f"{names[0]} runs without an executor", field="model")
        await frames.send(trace)


@asynccontextmanager
async def _until_hung_up(frames: FrameStream) -> AsyncIterator[None]:
    """Give up what is done for a person when the person hangs up."""

    async def watch(scope: anyio.CancelScope) -> None:
        with suppress(*GONE, SyscallError):
            await frames.receive()
        scope.cancel()

    with anyio.CancelScope() as scope:
        async with running() as tasks:
            tasks.start_soon(watch, scope)
            yield


def _status(machine: Machine) -> StatusReply:
    return StatusReply(
        os.getpid(),
        llmos.__version__,
        str(machine.config.home),
        machine.started_at,
        len(machine.table),
        machine.models.loaded(),
        machine.degraded.reason,
        machine.models.list_holdings(),
    )
