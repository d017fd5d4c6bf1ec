"""Runs and offline replays without an OS process: the app is a function of the test's own."""

import os
import socket
from collections.abc import Awaitable, Callable
from contextlib import aclosing, suppress
from pathlib import Path

import anyio
from anyio.lowlevel import checkpoint

from llmos.kernel.applog import AppLog
from llmos.kernel.ending import judge
from llmos.kernel.gates.app import serve_app
from llmos.kernel.machine import Machine
from llmos.kernel.offline import OfflineReplay
from llmos.kernel.process import Process
from llmos.kernel.protocol import ReplayReport
from llmos.kernel.terminal import NOBODY
from llmos.memory import processes
from llmos.memory.db import Connection
from llmos.memory.journal import load
from llmos.syscalls.client import System
from llmos.syscalls.errors import SyscallError
from llmos.syscalls.runtime import EXIT_CODES, EXIT_FAILED, result_text
from llmos.syscalls.stream import BytesOnlyStream, SocketStream
from llmos.syscalls.tasks import running
from llmos.syscalls.wire import GONE, PROTOCOL_VERSION, ByteStream, Exit, FrameStream, Hello

from .conftest import TOKEN, make_process

Main = Callable[[System], Awaitable[object]]
Serve = Callable[[ByteStream], Awaitable[Exit | None]]


async def run_main(stream: ByteStream, pid: int, main: Main) -> None:
    """What the runtime does in an app's OS process."""
    frames = FrameStream(stream)
    with suppress(*GONE):
        await frames.send(Hello(PROTOCOL_VERSION, pid, TOKEN))
        system = System(frames)
        await system.hear()
        with anyio.CancelScope() as alive:

            async def read() -> None:
                with suppress(*GONE, SyscallError):
                    await system.hear()
                alive.cancel()

            async with running() as tasks:
                tasks.start_soon(read)
                try:
                    ending = Exit(0, result_text(await main(system)))
                except SyscallError as error:
                    code = EXIT_CODES.get(error.code, EXIT_FAILED)
                    ending = Exit(code, error=error.reply())
                await frames.send(ending)


async def drive(pid: int, main: Main, serve: Serve) -> Exit | None:
    """Run main at one end of a socket and serve it at the other."""
    ours, theirs = socket.socketpair()
    async with (
        aclosing(await BytesOnlyStream.adopt(ours)) as kernel_end,
        aclosing(await SocketStream.adopt(theirs)) as app_end,
        running() as tasks,
    ):
        tasks.start_soon(run_main, app_end, pid, main)
        return await serve(kernel_end)


async def run_once(
    machine: Machine, workspace: Path, main: Main, *, is_ended: bool = True
) -> Process:
    """A process that has run main, its end written or (as after a kernel's death) not."""
    process = await make_process(machine, workspace)
    ending = await drive(
        process.pid, main, lambda stream: serve_app(machine, process, stream, TOKEN)
    )
    machine.table.remove(process)
    await machine.db.flush()
    if is_ended and ending is not None:
        error = "" if ending.error is None else f"{ending.error.code}: {ending.error.message}"
        await processes.update(
            machine.db,
            process.pid,
            exit_status="failed" if ending.code else "exited",
            exit_code=ending.code,
            result=error or ending.result,
            ended_at=machine.clock.now(),
        )
    return process


async def replay(machine: Machine, process: Process, main: Main) -> ReplayReport:
    """What comes of running main against a process's journal."""
    record = await processes.get(machine.db, process.pid)
    assert record is not None
    rows = await load(machine.db, process.pid)
    copy = Process(process.pid, None, process.manifest, process.spec, 0.0)
    offline = OfflineReplay(machine, copy, record, rows)
    ending = await drive(process.pid, main, lambda stream: offline.serve(stream, TOKEN))
    ended, _ = judge(copy, ending, AppLog(process.pid, Path(os.devnull), NOBODY))
    return offline.report(ended)


async def read_everything(machine: Machine) -> list[tuple[object, ...]]:
    """Every row of every table: what a replay must leave as it is."""

    def read(connection: Connection) -> list[tuple[object, ...]]:
        tables = connection.exec_driver_sql(
            "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'item_fts%'"
            " ORDER BY name"
        ).scalars()
        return [
            (table, *row)
            for table in list(tables)
            for row in connection.exec_driver_sql(f"SELECT * FROM {table}")
        ]

    return await machine.db.read(read)


async def run_until(machine: Machine, workspace: Path, main: Main, name: str) -> Process:
    """A process that was cut off, as by its kernel's death, when this call had begun."""
    process = await make_process(machine, workspace)

    async def serve(stream: ByteStream) -> None:
        async with running() as tasks:
            tasks.start_soon(serve_app, machine, process, stream, TOKEN)
            with anyio.fail_after(20):
                while name not in {row.name for row in await load(machine.db, process.pid)}:
                    await checkpoint()

    await drive(process.pid, main, serve)
    machine.table.remove(process)
    return process
