"""The outside of a simulated kernel: its disk, its threads, its processes, its clock, its model.

Each stands in for a part that another thread, another process or the machine would do, in the
loop's own time, and fails when it is told to. Everything else is the kernel's own code.
"""

import asyncio
import sqlite3
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import aclosing, contextmanager, suppress
from functools import partial
from pathlib import Path
from random import Random
from signal import SIGKILL
from socket import SHUT_RDWR, socket
from typing import Any, TypeVar, cast

import anyio
import anyio.to_thread
import msgspec
from anyio.lowlevel import checkpoint

from llmos.kernel.drivers.driver import GenerationJob
from llmos.kernel.drivers.echo import EchoDriver
from llmos.kernel.zygote import Zygote
from llmos.memory.db import Connection, Database
from llmos.memory.driver import driver_of
from llmos.memory.entry import Entry
from llmos.memory.writer import Order, Writer
from llmos.syscalls.errors import E_MODEL
from llmos.syscalls.runtime import Program, serve
from tests.faults.seeded_loop import SeededLoop

APP_MODULE = "tests.faults.player.player"
MAX_THREAD_SECONDS = 0.02
MAX_WRITER_SECONDS = 0.004
RETRY_SECONDS = 1.0
ZYGOTE_SECONDS = 0.1
NUM_LATE = 4
CRASHED = 1 << 8
T = TypeVar("T")


class Faults:
    """What is to go wrong, one of each until it has happened.

    `commits` are taken one at each COMMIT: "before" fails it, "after" fails it although it is
    durable, "crash-before" and "crash-after" kill the kernel there. `num_driver_errors` generations
    fail. With `commits_late`, the control, a transaction is acknowledged long before its COMMIT.
    """

    def __init__(self, random: Random, *, commits_late: bool = False) -> None:
        self.random = random
        self.commits_late = commits_late
        self.commits: list[str] = []
        self.num_driver_errors = 0

    def wait(self, max_seconds: float) -> float:
        """Some seconds; often none."""
        return self.random.choice((0.0, 0.0, 0.3, 1.0)) * max_seconds


@contextmanager
def threads_in_turn(faults: Faults) -> Iterator[None]:
    """What would run in a thread of anyio's runs in its caller's turn, after a while.

    Its caller may be cancelled meanwhile as if it were a thread: it is done all the same.
    """
    before = anyio.to_thread.run_sync

    async def run_sync(
        function: Callable[..., T], *args: Any, abandon_on_cancel: bool = False, **_: object
    ) -> T:
        with anyio.CancelScope(shield=not abandon_on_cancel):
            await anyio.sleep(faults.wait(MAX_THREAD_SECONDS))
            result = function(*args)
            await anyio.sleep(faults.wait(MAX_THREAD_SECONDS))
        return result

    anyio.to_thread.run_sync = run_sync  # type: ignore[assignment]
    try:
        yield
    finally:
        anyio.to_thread.run_sync = before


class FaultyDriver:
    """A SQLite connection whose COMMIT may fail, or be the last thing that happens."""

    def __init__(self, driver: sqlite3.Connection, faults: Faults, loop: SeededLoop) -> None:
        self._driver = driver
        self._faults = faults
        self._loop = loop
        self._num_late = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._driver, name)

    def execute(self, sql: str, parameters: tuple[object, ...] = ()) -> sqlite3.Cursor:
        """As the connection does it, faults aside."""
        if self._faults.commits_late and self._is_late(sql):
            return self._driver.execute("SELECT 1")
        fault = self._faults.commits.pop(0) if sql == "COMMIT" and self._faults.commits else ""
        if fault == "crash-before":
            self._loop.crash()
        if fault == "before":
            raise disk_error()
        cursor = self._driver.execute(sql, parameters)
        if fault == "crash-after":
            self._loop.crash()
        if fault == "after":
            raise disk_error()
        return cursor

    def _is_late(self, sql: str) -> bool:
        """Whether the control leaves out this BEGIN or COMMIT."""
        if sql == "COMMIT":
            self._num_late = (self._num_late + 1) % NUM_LATE
            return self._num_late > 0
        return sql.startswith("BEGIN") and self._driver.in_transaction


def disk_error() -> sqlite3.OperationalError:
    """What SQLite raises for a disk that fails."""
    error = sqlite3.OperationalError("disk I/O error")
    error.sqlite_errorcode = sqlite3.SQLITE_IOERR
    return error


class SimulatedWriter(Writer):
    """The writer without its thread: it comes round in a task, a while after something came."""

    def __init__(
        self, connection: Connection, path: Path, faults: Faults, loop: SeededLoop
    ) -> None:
        super().__init__(connection, path)
        self._faults = faults
        self._loop = loop
        self._is_due = False
        self._driver = cast("sqlite3.Connection", FaultyDriver(self._driver, faults, loop))

    def start(self) -> None:
        """There is no thread."""

    def put(self, item: Entry | Order) -> None:
        """Queue something; the writer comes round."""
        super().put(item)
        if not self._is_due:
            self._is_due = True
            self._loop.create_task(self._come_round())

    async def _come_round(self) -> None:
        while not self._closed and not self._queue.empty():
            await asyncio.sleep(self._faults.wait(MAX_WRITER_SECONDS))
            if not self._closed:
                self._step()
        self._is_due = False
        if self._pending and not self._is_held_up():
            self._loop.call_later(RETRY_SECONDS, self._try_again)

    def _try_again(self) -> None:
        if not self._closed:
            self.put(lambda: None)

    def stop(self) -> None:
        """As the thread's end: commit what is queued, reject what cannot be."""
        self._closed = True
        self._queue.put(None)
        while self._step():
            pass
        self._reject_rest()

    def die(self) -> None:
        """The kernel was killed: what was not committed is gone."""
        self._closed = True
        driver_of(self._connection).rollback()


def open_simulated(path: Path, make_writer: Callable[[Connection, Path], Writer]) -> Database:
    """A database whose writer is another one."""
    db = Database.open(path)
    db._writer.stop()
    db._writer = make_writer(db._connection, path)
    return db


class SimulatedChild:
    """An app: a task instead of a process."""

    def __init__(self, app_socket: socket) -> None:
        self.socket = app_socket
        self.task: asyncio.Task[int] | None = None
        self.status: int | None = None
        self.is_killed = False
        self.is_lost = False  # with its zygote
        self.dead = anyio.Event()

    def kill(self) -> None:
        """It says and does nothing any more."""
        self.is_killed = True
        with suppress(OSError):
            self.socket.shutdown(SHUT_RDWR)
        if self.task is not None:
            self.task.cancel()


class SimulatedZygote(Zygote):
    """Starts apps as tasks of the kernel's own loop, over the same sockets."""

    def __init__(self) -> None:
        self._apps: dict[int, SimulatedChild] = {}
        self._is_up = anyio.Event()
        self._is_up.set()
        self._num_deaths = 0
        self.num_crashes = 0  # of apps that nobody killed

    async def fork(
        self, program: Program, app_socket: socket, log_socket: socket, pid: int | None = None
    ) -> None:
        """Start an app."""
        log_socket.close()
        app = self._apps[program.pid if pid is None else pid] = SimulatedChild(app_socket)
        if self.is_up:
            app.task = asyncio.create_task(self._live(program, app))
            app.task.add_done_callback(partial(self._bury, app))
        else:
            app_socket.close()
            app.dead.set()
        await checkpoint()

    async def _live(self, program: Program, app: SimulatedChild) -> int:
        return await serve(
            msgspec.structs.replace(program, module=APP_MODULE, folder=None), app.socket
        )

    def _bury(self, app: SimulatedChild, task: "asyncio.Task[int]") -> None:
        """An app has ended, or was killed."""
        app.socket.close()
        if app.is_killed:
            app.status = None if app.is_lost else SIGKILL
            with suppress(asyncio.CancelledError):
                task.exception()
        elif task.cancelled() or task.exception() is not None:
            app.status = CRASHED
            self.num_crashes += 1
        else:
            app.status = task.result() << 8
        app.dead.set()

    def send_signal(self, pid: int, signal_number: int) -> None:
        """Only KILL does anything: a task cannot be stopped."""
        app = self._apps.get(pid)
        if app is not None and signal_number == SIGKILL:
            app.kill()

    def find_os_pid(self, pid: int) -> int | None:
        """There are no OS processes."""
        return None

    def living(self) -> list[int]:
        """The processes whose apps run."""
        return [pid for pid, app in self._apps.items() if not app.dead.is_set()]

    async def wait_dead(self, pid: int) -> None:
        """Wait until an app is gone."""
        if pid in self._apps:
            await self._apps[pid].dead.wait()

    async def wait(self, pid: int) -> int | None:
        """Wait until an app is gone; its status, once."""
        await self.wait_dead(pid)
        return self._apps.pop(pid).status

    async def die(self) -> None:
        """Take all apps along, and be back after a while."""
        self._is_up = anyio.Event()
        for app in self._apps.values():
            app.is_lost = True
            app.kill()
        await anyio.sleep(ZYGOTE_SECONDS)
        self._is_up.set()

    def close(self) -> None:
        """Take all apps along."""
        for app in self._apps.values():
            app.kill()


class SimulatedClock:
    """The loop's time, and a wall clock that somebody sets now and then."""

    def __init__(self, loop: SeededLoop, start: float) -> None:
        self._loop = loop
        self.start = start

    def now(self) -> float:
        """Unix seconds."""
        return self.start + self._loop.time()

    def monotonic(self) -> float:
        """Seconds since the kernel began."""
        return self._loop.time()

    async def sleep(self, seconds: float) -> None:
        """Wait in the loop's time."""
        await anyio.sleep(max(0.0, seconds))


class FlakyDriver(EchoDriver):
    """The echo driver, but a generation fails where one is to."""

    def __init__(self, faults: Faults) -> None:
        super().__init__()
        self._faults = faults

    async def generate(self, job: GenerationJob) -> AsyncGenerator[Any, None]:
        """The scripted answer, or E_MODEL in the middle of it."""
        async with aclosing(super().generate(job)) as items:
            async for item in items:
                if self._faults.num_driver_errors:
                    self._faults.num_driver_errors -= 1
                    raise E_MODEL("the model failed as planned")
                yield item
