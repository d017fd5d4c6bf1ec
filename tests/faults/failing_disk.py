"""A kernel on a disk that fails at one place, and what is left of its work: a run of io_errors.

An app makes calls of every kind through the kernel's gate. When the disk fails, degraded mode and
a virtual clock have their way; then it works again, or the system goes down. Whatever the disk
holds afterwards is started on again: as the system sees it (the kernel was killed), and after power
cuts. There the app is replayed to its end.
"""

import dataclasses
import sqlite3
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any, Literal

import msgspec
from sqlalchemy import URL, NullPool, create_engine
from sqlalchemy.exc import DBAPIError

from llmos.kernel.clock import VirtualClock
from llmos.kernel.config import load_config
from llmos.kernel.degraded import MAX_PAUSE_SECONDS, MAX_RETRY_SECONDS
from llmos.kernel.machine import Machine
from llmos.kernel.main import assemble
from llmos.kernel.process import Process
from llmos.kernel.tools.registry import Registry
from llmos.kernel.tools.tool import ToolContext, tool
from llmos.memory.db import Connection, Database, claim_file, prepare
from llmos.memory.entry import storage_error
from llmos.memory.journal import load
from llmos.syscalls.errors import E_STORAGE, SyscallError
from llmos.syscalls.tasks import running
from llmos.syscalls.types import Message
from tests.kernel.conftest import make_process, open_system

from . import scratch
from .disk import Disk, Folder, read_log
from .errand import EFFECTS, IN_DOUBT, Errand
from .shim import FaultName, Shim
from .workload import require_readable, require_sound

NUM_TRIES = 3  # of a disk that goes on failing
Ending = Literal["close", "cut", "die", "refuse"]
WRONG = ("num_lost", "num_repeated_effects", "num_corrupt", "num_unclean")
_message_decoder = msgspec.msgpack.Decoder(Message)


@dataclass(frozen=True)
class Fault:
    """What fails and where, and how it ends.

    "close": the disk works again and the kernel ends; "cut": the power goes before it ends; "die":
    it goes while the disk fails; "refuse": the disk fails for longer than calls wait.
    """

    name: FaultName
    position: int
    is_sticky: bool
    ending: Ending

    @property
    def endings(self) -> tuple[Ending, ...]:
        """How it may end: a disk that failed once works already."""
        return ("close", "cut", "die", "refuse") if self.is_sticky else ("close", "cut")


@dataclass
class Figures:
    """What came of the runs: how many went wrong in which way."""

    num_runs: int = 0
    num_lost: int = 0  # answers that an app had and the store does not know
    num_repeated_effects: int = 0
    num_corrupt: int = 0  # a store that cannot be opened or has damage
    num_unclean: int = 0  # an error that is not E_STORAGE
    num_refused: int = 0  # calls; that is allowed
    num_in_doubt: int = 0  # calls; that too
    errors: dict[str, int] = field(default_factory=dict)

    def list_wrong(self) -> dict[str, float]:
        """How many runs there were, and what has to be 0."""
        counts = dataclasses.asdict(self)
        return {name: counts[name] for name in ("num_runs", *WRONG)}


class Careless(sqlite3.Connection):
    """A driver that takes every transaction for durable, whatever the disk says: the control."""

    def execute(self, sql: str, *rest: Any) -> sqlite3.Cursor:
        """As SQLite does, but for the end of a transaction."""
        try:
            return super().execute(sql, *rest)
        except sqlite3.OperationalError:
            if sql != "COMMIT":
                raise
            return super().execute("ROLLBACK" if self.in_transaction else "SELECT 1")


def open_carelessly(path: Path) -> Database:
    """A store whose writer does not hear that a transaction failed."""
    engine = create_engine(
        URL.create("sqlite", database=str(path)),
        poolclass=NullPool,
        connect_args={"factory": Careless, "isolation_level": None},
    )
    try:
        claim_file(path)
        connection = engine.connect()
        prepare(connection)
    except (DBAPIError, OSError) as error:
        raise storage_error(error) from error
    return Database(path, connection)


@asynccontextmanager
async def kernel(home: Path, errand: Errand, is_weak: bool = False) -> AsyncIterator[Machine]:
    """A kernel without OS processes, on a virtual clock."""

    @tool("once")
    def ring(context: ToolContext, text: str) -> str:
        """Do what cannot be undone."""
        errand.rung.append(text)
        return text

    config = load_config({"LLMOS_HOME": str(home), "LLMOS_MODEL": "echo"})
    db = (open_carelessly if is_weak else Database.open)(config.database)
    machine = assemble(config, VirtualClock(), db)
    machine.tools = Registry([ring])
    try:
        async with running(machine.tasks):
            machine.tasks.start_soon(machine.degraded.run)
            yield machine
    finally:
        await machine.models.aclose()
        await db.aclose()


async def pass_time(machine: Machine, seconds: float) -> None:
    """Let time pass and the kernel notice: it tries the disk, and so do we behind it."""
    clock = machine.clock
    assert isinstance(clock, VirtualClock)
    clock.advance(seconds)
    for _ in range(2):
        with suppress(E_STORAGE):  # a disk that fails may not be read either
            await machine.db.read(lambda connection: None)
        await machine.db.retry()


def is_failing(machine: Machine) -> bool:
    """Whether the disk fails or the kernel has not noticed yet that it works."""
    return machine.db.failure is not None or machine.degraded.reason is not None


class Run:
    """One run. `folder` is its own for the time."""

    def __init__(
        self, shim: Shim, folder: Path, fault: Fault, rng: Random, figures: Figures, is_weak: bool
    ) -> None:
        self._shim = shim
        self._folder = folder
        self._log = folder / "log"
        self._fault = fault
        self._rng = rng
        self._figures = figures
        self._is_weak = is_weak
        self._errand = Errand([])
        self._process: Process | None = None
        self._left: list[Folder] = []
        self._settled: dict[str, object] = {}
        self._rung: list[str] = []
        self._wrong: set[str] = set()
        self.num_places: tuple[int, ...] = ()  # where it could fail, by class

    async def play(self) -> bool:
        """Play it; whether anything failed, else it counts for nothing."""
        home = self._folder / "home"
        scratch.put_folder(home, {})
        self._shim.watch(home, self._log)
        self._shim.arm(self._fault.name, self._fault.position, self._fault.is_sticky)
        with suppress(E_STORAGE):  # of a store that cannot be opened, or not be closed well
            async with kernel(home, self._errand, self._is_weak) as machine:
                machine.tasks.start_soon(self._tend, machine)
                await self._use(machine)
        self._note_left()
        has_failed, self.num_places = self._shim.num_failed > 0, self._shim.counts()
        self._shim.close()
        if has_failed:
            self._figures.num_runs += 1
            self._figures.num_refused += self._errand.num_refused
            for left in self._left:
                await self._start_on(left)
            for name in self._wrong:
                setattr(self._figures, name, getattr(self._figures, name) + 1)
        return has_failed

    async def _use(self, machine: Machine) -> None:
        """The app's life, on a kernel that may wait for its disk."""
        self._process = await make_process(machine, self._folder)
        self._errand.wait_works = lambda: self._wait_works(machine)
        try:
            async with open_system(machine, self._process) as system:
                await self._errand.run(system)
        except* SyscallError as group:
            self._note_unclean(group)
        if self._fault.ending == "cut":
            self._note_left()

    async def _wait_works(self, machine: Machine) -> None:
        while is_failing(machine):
            await pass_time(machine, 0.0)

    async def _tend(self, machine: Machine) -> None:
        """Let every failure have its course. E_STORAGE: the store is closed."""
        with suppress(E_STORAGE):
            while True:
                await machine.db.wait_failure()
                await self._sit_out(machine)

    async def _sit_out(self, machine: Machine) -> None:
        for _ in range(NUM_TRIES):
            await pass_time(machine, MAX_RETRY_SECONDS)
        if machine.db.failure is not None and self._fault.ending == "die":
            self._note_left()
        if machine.db.failure is not None and self._fault.ending == "refuse":
            await pass_time(machine, MAX_PAUSE_SECONDS)
            await pass_time(machine, MAX_RETRY_SECONDS)
        self._shim.heal()
        while is_failing(machine):
            await pass_time(machine, MAX_RETRY_SECONDS)

    def _note_left(self) -> None:
        """What the disk holds now and may hold after a power cut, and what the app knows; once."""
        if self._left:
            return
        self._settled, self._rung = dict(self._errand.settled), list(self._errand.rung)
        self._shim.mark(0)
        disk = Disk()
        for operation in read_log(self._log):
            disk.apply(operation)
        for folder in (disk.seen(), disk.durable(), disk.cut(self._rng)):
            if folder not in self._left:
                self._left.append(folder)

    def _note_unclean(self, errors: ExceptionGroup[SyscallError]) -> None:
        self._note("num_unclean", repr(errors.exceptions))

    def _note(self, wrong: str, what: str) -> None:
        self._wrong.add(wrong)
        text = f"{what[:200]} after {self._fault}"
        self._figures.errors[text] = self._figures.errors.get(text, 0) + 1

    # -- afterwards

    async def _start_on(self, left: Folder) -> None:
        """Start a kernel on what a disk held, look, and let the app go on."""
        home = self._folder / "left"
        scratch.put_folder(home, left)
        errand = Errand(list(self._rung))
        try:
            async with kernel(home, errand) as machine:
                await machine.db.write(require_sound)
                await require_readable(machine.db)
                effects = await list_effects(machine.db)
                self._compare(effects, self._settled, errand)
                effects = await self._go_on(machine, errand)
                self._compare(effects, errand.heard, errand)
        except E_STORAGE as error:
            self._note("num_corrupt", error.message)

    async def _go_on(self, machine: Machine, errand: Errand) -> Counter[str]:
        """Replay the app to its end on a healthy disk; the effects that it has had."""
        before = self._process
        if before is None or not await has_process(machine.db, before.pid):
            return Counter()
        process = Process(before.pid, None, before.manifest, before.spec, 0.0)
        process.begin_again(await load(machine.db, before.pid), (0, 0), 0)
        try:
            async with open_system(machine, process) as system:
                await errand.run(system)
        except* SyscallError as group:
            self._note_unclean(group)
        heard = errand.heard
        self._figures.num_in_doubt += list(heard.values()).count(IN_DOUBT)
        changed = [name for name, answer in self._settled.items() if heard.get(name) != answer]
        if changed:
            self._note("num_lost", f"other answers after a replay: {changed}")
        return await list_effects(machine.db)

    def _compare(self, effects: Counter[str], heard: dict[str, object], errand: Errand) -> None:
        """Every effect that was acknowledged is there, and none twice."""
        missing = [name for name in heard if name.endswith(EFFECTS) and not effects[name]]
        all_effects = effects + Counter(errand.rung)
        twice = [name for name, times in all_effects.items() if times > 1]
        if missing:
            self._note("num_lost", f"missing: {missing}")
        if twice:
            self._note("num_repeated_effects", f"twice: {twice}")


async def list_effects(db: Database) -> Counter[str]:
    """How often the store holds each text that the app printed, remembered or put in a context."""
    return await db.read(_list_effects)


def _list_effects(connection: Connection) -> Counter[str]:
    def read(query: str) -> list[Any]:
        return list(connection.exec_driver_sql(query).scalars())

    messages = [_message_decoder.decode(body).content for body in read("SELECT body FROM message")]
    printed = "".join(read("SELECT text FROM output ORDER BY offset_chars")).splitlines()
    return Counter([*printed, *read("SELECT body FROM item"), *messages])


async def has_process(db: Database, pid: int) -> bool:
    """Whether the store knows the process."""
    query = "SELECT count(*) FROM process WHERE pid = ?"
    return await db.read(lambda c: bool(c.exec_driver_sql(query, (pid,)).scalar_one()))
