"""A kernel without OS processes: the app's end of its socket is held by the test."""

import socket
import textwrap
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import msgspec
import pytest
from anyio.abc import UNIXSocketStream

from llmos.kernel.capability import Capabilities
from llmos.kernel.clock import SystemClock
from llmos.kernel.config import Config, load_config
from llmos.kernel.gates.app import serve_app
from llmos.kernel.machine import Birth, Machine
from llmos.kernel.main import assemble
from llmos.kernel.manifest import Manifest
from llmos.kernel.process import Process, ProcessSpec
from llmos.kernel.replay import count_tokens
from llmos.kernel.terminal import Terminal
from llmos.memory import processes
from llmos.memory.db import Database
from llmos.memory.journal import JournalRow, load, read_output
from llmos.syscalls.client import System
from llmos.syscalls.stream import BytesOnlyStream
from llmos.syscalls.tasks import running
from llmos.syscalls.wire import PROTOCOL_VERSION, FrameStream, Hello

TOKEN = "0123456789abcdef"
EVERYTHING = msgspec.convert(
    {
        "generate": {"models": ["*"]},
        "memory": {"read": ["notes"], "write": ["notes"]},
        "tools": ["*"],
        "files": {"read": ["."], "write": ["."]},
        "children": ["*"],
        "processes": True,
    },
    Capabilities,
)
APP_MANIFEST = """
[app]
name = "{name}"
version = "1"
main = "code:main"
[capabilities]
generate = {{ models = ["*"] }}
children = ["*"]
processes = true
"""
APP_HEADER = (
    "import anyio, os, sys, time\nfrom llmos import app\n\n@app\nasync def main(sys_, *words):\n"
)
MakeApp = Callable[[str, str], str]
Attach = Callable[..., Awaitable[tuple[System, Process]]]
Main = Callable[[System], Awaitable[Any]]


@pytest.fixture
def config(tmp_path: Path) -> Config:
    return load_config({"LLMOS_HOME": str(tmp_path / "home"), "LLMOS_MODEL": "echo"})


@pytest.fixture
async def machine(config: Config) -> AsyncIterator[Machine]:
    db = Database.open(config.database)
    machine = assemble(config, SystemClock(), db)
    async with running(machine.tasks):
        yield machine
    await machine.models.aclose()
    await db.aclose()


async def make_process(
    machine: Machine, workspace: Path, capabilities: Capabilities = EVERYTHING
) -> Process:
    """A process with a record in the store and no OS process."""
    manifest = Manifest("test", "1", "main:main", "", workspace, False, capabilities)
    spec = ProcessSpec("test", (), str(workspace), (), "echo", "salt", capabilities)
    pid = await machine.db.write(
        lambda connection: processes.create_row(
            connection,
            app="test",
            spec=msgspec.msgpack.encode(spec),
            tenant="local",
            model="echo",
            state="NEW",
            parent=None,
            created_at=0.0,
        )
    )
    process = Process(pid, None, manifest, spec, 0.0)
    machine.table.add(process)
    return process


@asynccontextmanager
async def open_gate(machine: Machine, process: Process) -> AsyncIterator[UNIXSocketStream]:
    """The app's end of a served socket, before HELLO."""
    ours, theirs = socket.socketpair()
    async with (
        aclosing(await BytesOnlyStream.adopt(ours)) as kernel_end,
        await UNIXSocketStream.from_socket(theirs) as app_end,
        anyio.create_task_group() as tasks,
    ):
        tasks.start_soon(serve_app, machine, process, kernel_end, TOKEN)
        yield app_end
        tasks.cancel_scope.cancel()


@asynccontextmanager
async def open_system(machine: Machine, process: Process) -> AsyncIterator[System]:
    """The SDK over a served socket, after HELLO."""
    async with open_gate(machine, process) as stream, anyio.create_task_group() as tasks:
        frames = FrameStream(stream)
        await frames.send(Hello(PROTOCOL_VERSION, process.pid, TOKEN))
        system = System(frames)
        await system.receive()
        tasks.start_soon(system.receive)
        yield system
        tasks.cancel_scope.cancel()


@pytest.fixture
async def attach(machine: Machine, tmp_path: Path) -> AsyncIterator[Attach]:
    """Make a process and return the System of its app and its control block."""
    async with AsyncExitStack() as stack:

        async def attach(
            capabilities: Capabilities = EVERYTHING, *, again: Process | None = None
        ) -> tuple[System, Process]:
            process = again or await make_process(machine, tmp_path, capabilities)
            return await stack.enter_async_context(open_system(machine, process)), process

        yield attach


async def read_rows(machine: Machine, process: Process) -> list[JournalRow]:
    """The process's journal, everything queued included."""
    await machine.db.flush()
    return await load(machine.db, process.pid)


def prepare(machine: Machine, app: str, workspace: Path, *argv: str) -> Birth:
    """What a person's `run` asks of the launcher first."""
    return machine.launcher.prepare(
        app, argv, workspace=str(workspace), readable=(), model=None, parent=None
    )


async def record(machine: Machine, birth: Birth) -> int:
    """Write down a process that is about to exist; its pid."""
    return await machine.db.write(lambda connection: machine.launcher.record(connection, birth))


async def start(machine: Machine, app: str, workspace: Path, *argv: str) -> Process:
    """Start an app the way the control gate does."""
    birth = prepare(machine, app, workspace, *argv)
    return machine.launcher.start(await record(machine, birth), birth, Terminal())


@pytest.fixture
def make_app(tmp_path: Path) -> MakeApp:
    """Write an app whose main has this body; returns its path."""

    def make(name: str, body: str) -> str:
        folder = tmp_path / name
        folder.mkdir()
        (folder / "app.toml").write_text(APP_MANIFEST.format(name=name))
        (folder / "code.py").write_text(APP_HEADER + textwrap.indent(textwrap.dedent(body), "    "))
        return f"./{name}"

    return make


async def begin_replay(machine: Machine, process: Process) -> None:
    """What the launcher does when an OS process was lost: the journal is to be replayed."""
    rows, output = await read_rows(machine, process), await read_output(machine.db, process.pid)
    process.begin_again(rows, count_tokens(rows), len(output))


async def run_twice(machine: Machine, process: Process, main: Main) -> list[Any]:
    """What an app's main returns, and what it returns once more when it replays its journal."""
    results = []
    for _ in range(2):
        async with open_system(machine, process) as system:
            results.append(await main(system))
        await begin_replay(machine, process)
    return results
