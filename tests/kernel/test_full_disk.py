"""A whole kernel on a disk that is full for a while: the system refuses its writes, for real."""

import os
import resource
import signal
import sqlite3
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing, asynccontextmanager, closing, contextmanager
from functools import partial
from pathlib import Path
from typing import TypeVar

import anyio
import pytest

from llmos.bin.connection import try_connect
from llmos.bin.doctor import check_store
from llmos.bin.failure import EXIT_STATE
from llmos.kernel.config import Config
from llmos.kernel.main import boot
from llmos.kernel.protocol import (
    FromTerminal,
    Kill,
    KillReply,
    ListProcesses,
    ProcessListing,
    ReadStatus,
    Run,
    Shutdown,
    Started,
    StatusReply,
)
from llmos.kernel.terminal import Terminal
from llmos.memory.journal import load
from llmos.syscalls.errors import E_STORAGE
from llmos.syscalls.process import ProcessInfo

from .conftest import MakeApp

pytestmark = pytest.mark.anyio
T = TypeVar("T")
SOURCE = Path(__file__).parents[2] / "src"
DAEMON = ["-m", "llmos.bin.daemon"]
NUM_LINES = 40
WORKER = f"""
for number in range({NUM_LINES}):
    await sys_.print(str(number))
    await sys_.sleep(0.02)
"""
IMPATIENT = """
from llmos.bin import daemon
from llmos.kernel import degraded

degraded.MAX_PAUSE_SECONDS = 0
daemon.main()
"""


class Kernel:
    """A kernel in an OS process of its own, whose disk can be filled."""

    def __init__(self, config: Config, host: "subprocess.Popen[bytes]") -> None:
        self._config = config
        self.host = host

    async def ask(self, request: FromTerminal, answer: type[T]) -> T:
        connection = await try_connect(self._config)
        assert connection is not None
        async with aclosing(connection):
            return await connection.request(request, answer)

    async def run(self, app: str, folder: Path) -> int:
        run = Run(app, (), str(folder), model="echo", detach=True)
        return (await self.ask(run, Started)).pid

    @contextmanager
    def full_disk(self) -> Iterator[None]:
        """No file of this kernel may pass 1000 bytes."""
        limits = resource.prlimit(self.host.pid, resource.RLIMIT_FSIZE)
        resource.prlimit(self.host.pid, resource.RLIMIT_FSIZE, (1000, limits[1]))
        try:
            yield
        finally:
            if self.host.poll() is None:
                resource.prlimit(self.host.pid, resource.RLIMIT_FSIZE, limits)

    async def wait_degraded(self) -> None:
        while (await self.ask(ReadStatus(), StatusReply)).degraded is None:
            pass

    async def find(self, pid: int) -> ProcessInfo:
        """A process as it is listed."""
        listing = (await self.ask(ListProcesses(), ProcessListing)).listing
        (info,) = [info for info in listing.processes if info.pid == pid]
        return info

    async def wait_ended(self, pid: int) -> str:
        """How a process ended."""
        while (status := (await self.find(pid)).exit_status) is None:
            pass
        return status


def start(config: Config, program: list[str]) -> "subprocess.Popen[bytes]":
    env = os.environ | {
        "LLMOS_HOME": str(config.home),
        "LLMOS_MODEL": "echo",
        "PYTHONPATH": str(SOURCE),
    }
    with said_by(config).open("wb") as said:
        return subprocess.Popen([sys.executable, *program], env=env, stderr=said)


def said_by(config: Config) -> Path:
    """What the kernel said on its stderr."""
    return config.home / "said"


@asynccontextmanager
async def kernel(config: Config, program: list[str]) -> AsyncIterator[Kernel]:
    host = start(config, program)
    try:
        with anyio.fail_after(30):
            while (connection := await try_connect(config)) is None:
                assert host.poll() is None
            await connection.aclose()
            yield Kernel(config, host)
    finally:
        host.send_signal(signal.SIGKILL)
        host.wait()


def lines(config: Config, pid: int) -> list[str]:
    """What a process has written, as it is on the disk."""
    with closing(sqlite3.connect(f"file:{config.database}?mode=ro", uri=True)) as db:
        query = "SELECT text FROM output WHERE pid = ? ORDER BY offset_chars"
        return "".join(text for (text,) in db.execute(query, (pid,))).split()


async def wait_lines(config: Config, pid: int, num_lines: int) -> None:
    while len(lines(config, pid)) < num_lines:
        await anyio.lowlevel.checkpoint()


EVERY_LINE_ONCE = [str(number) for number in range(NUM_LINES)]


async def test_a_process_goes_on_where_it_was_when_there_is_room(
    config: Config, make_app: MakeApp, tmp_path: Path
) -> None:
    app = make_app("worker", WORKER)
    async with kernel(config, DAEMON) as machine:
        pid = await machine.run(app, tmp_path)
        await wait_lines(config, pid, 3)
        with machine.full_disk():
            await machine.wait_degraded()
            written = lines(config, pid)
            with pytest.raises(E_STORAGE, match="the store failed"):
                await machine.run(app, tmp_path)
            assert lines(config, pid) == written

        assert await machine.wait_ended(pid) == "exited"
        assert lines(config, pid) == EVERY_LINE_ONCE


async def test_without_the_pause_a_process_waits_in_its_own_place(
    config: Config, make_app: MakeApp, tmp_path: Path
) -> None:
    """A kernel that turns calls away at once: they come again under their numbers."""
    app = make_app("worker", WORKER)
    async with kernel(config, ["-c", IMPATIENT]) as machine:
        pid = await machine.run(app, tmp_path)
        await wait_lines(config, pid, 3)
        with machine.full_disk():
            await machine.wait_degraded()
            while (await machine.find(pid)).state != "READY":  # no call of it is in the kernel
                pass

        assert await machine.wait_ended(pid) == "exited"
        assert lines(config, pid) == EVERY_LINE_ONCE


async def test_a_process_can_be_killed_meanwhile(
    config: Config, make_app: MakeApp, tmp_path: Path
) -> None:
    app = make_app("worker", WORKER)
    async with kernel(config, DAEMON) as machine:
        pid = await machine.run(app, tmp_path)
        await wait_lines(config, pid, 3)
        with machine.full_disk():
            await machine.wait_degraded()
            assert (await machine.ask(Kill(pid, "KILL"), KillReply)).reply.delivered
            while (await machine.ask(ReadStatus(), StatusReply)).num_processes:
                pass

        assert await machine.wait_ended(pid) == "killed"


async def test_a_kernel_that_stops_on_a_full_disk_leaves_its_processes_to_the_next(
    config: Config, make_app: MakeApp, tmp_path: Path
) -> None:
    app = make_app("worker", WORKER)
    async with kernel(config, DAEMON) as machine:
        pid = await machine.run(app, tmp_path)
        await wait_lines(config, pid, 3)
        with machine.full_disk():
            await machine.wait_degraded()
            await machine.ask(Shutdown(), StatusReply)
            assert await anyio.to_thread.run_sync(machine.host.wait) == EXIT_STATE

    assert said_by(config).read_text().startswith("llmos: the store failed: ")
    async with boot(config) as later:
        process = await later.launcher.resume(pid, Terminal())
        with anyio.fail_after(20):
            await process.ended.wait()
        assert all(row.state == "DONE" for row in await load(later.db, pid))
    assert lines(config, pid) == EVERY_LINE_ONCE


async def test_the_state_and_its_reason_can_be_seen(
    config: Config, make_app: MakeApp, tmp_path: Path
) -> None:
    look = partial(anyio.to_thread.run_sync, check_store, config)
    assert (await look()).found == "no kernel is running"
    async with kernel(config, DAEMON) as machine:
        assert (await look()).found == "works"
        pid = await machine.run(make_app("worker", WORKER), tmp_path)
        await wait_lines(config, pid, 3)
        with machine.full_disk():
            await machine.wait_degraded()

            found = await look()

    assert (found.found, found.fatal) == ("the store failed: disk I/O error", False)
    assert "make room" in found.fix
