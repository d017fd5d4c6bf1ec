"""Boot: bring the kernel up, a line per part, in this order."""

import fcntl
import logging
import os
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, closing, contextmanager

import anyio

from llmos.memory.db import Database
from llmos.memory.manager import MemoryManager
from llmos.syscalls.errors import E_STORAGE
from llmos.syscalls.tasks import running

from .chunks import Chunks
from .clock import Clock, SystemClock
from .config import Config
from .degraded import DegradedMode
from .eviction import Evictor
from .gates.control import open_control_gate
from .journal import Journal
from .launch import Launcher
from .machine import Machine
from .models import Models
from .process import ProcessTable
from .tools.builtin import BUILTIN_TOOLS
from .tools.registry import Registry
from .zygote import Zygote


@asynccontextmanager
async def boot(config: Config) -> AsyncIterator[Machine]:
    """Bring the kernel up; it runs while the context lasts.

    Processes that live when it ends are left as they are in the store; those that the last kernel
    left go on when `machine.launcher.recover` is called. Raises E_STORAGE when another kernel holds
    the state directory or the store cannot be opened.
    """
    with hold_state(config), log_to_file(config), closing(Zygote(os.environ)) as zygote:
        db = Database.open(config.database)  # after the zygote: it must not cross a fork
        machine = assemble(config, SystemClock(), db)
        machine.launcher = launcher = Launcher(machine, zygote)
        try:
            async with running(machine.tasks), open_control_gate(machine):
                machine.tasks.start_soon(zygote.watch)
                machine.tasks.start_soon(launcher.run_queue.run)
                machine.tasks.start_soon(Evictor(machine).run)
                machine.tasks.start_soon(machine.degraded.run)
                machine.tasks.start_soon(machine.models.run)
                machine.tasks.start_soon(machine.chunks.run)
                yield machine
        finally:
            with anyio.CancelScope(shield=True):
                await machine.models.aclose()
                await db.aclose()


def assemble(config: Config, clock: Clock, db: Database) -> Machine:
    """Put the parts together that need no other OS process."""
    models, table = Models(config, clock), ProcessTable()
    return Machine(
        config=config,
        clock=clock,
        db=db,
        memory=MemoryManager(db),
        journal=Journal(db, clock),
        models=models,
        tools=Registry(BUILTIN_TOOLS),
        table=table,
        degraded=DegradedMode(db, clock, table, models),
        chunks=Chunks(db, clock),
        started_at=clock.now(),
        tasks=anyio.create_task_group(),
    )


@contextmanager
def hold_state(config: Config) -> Iterator[None]:
    """One kernel per state directory: hold its lock. E_STORAGE when another one does."""
    with config.lock.open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise E_STORAGE(
                f"another kernel runs on {config.home}; fix: llmos stop", field="lock"
            ) from None
        yield


class LogFile(logging.FileHandler):
    """The kernel's log. A full disk costs lines of it, and puts no traceback on a terminal."""

    def handleError(self, record: logging.LogRecord) -> None:
        """Go on without the line."""


@contextmanager
def log_to_file(config: Config) -> Iterator[None]:
    """What the kernel has to say goes to a file, not to somebody's terminal."""
    config.logs.mkdir(mode=0o700, exist_ok=True)
    handler = LogFile(config.logs / "kernel.log")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    loggers = [logging.getLogger(name) for name in ("llmos", "asyncio")]
    for logger in loggers:
        logger.addHandler(handler)
        logger.propagate = False
    try:
        yield
    finally:
        for logger in loggers:
            logger.removeHandler(handler)
        handler.close()
