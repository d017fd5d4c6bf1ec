"""A disk that takes nothing more: processes pause, nothing is lost, and all goes on by itself."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import pytest
from anyio.abc import TaskGroup

from llmos.kernel import degraded
from llmos.kernel.clock import SystemClock, VirtualClock
from llmos.kernel.config import Config
from llmos.kernel.degraded import MAX_PAUSE_SECONDS
from llmos.kernel.listing import list_processes
from llmos.kernel.machine import Machine
from llmos.kernel.main import assemble
from llmos.kernel.protocol import Notice
from llmos.kernel.terminal import Terminal
from llmos.memory.db import Connection, Database
from llmos.memory.journal import load
from llmos.syscalls.client import System
from llmos.syscalls.errors import E_STORAGE, SyscallError
from llmos.syscalls.tasks import running
from tests.memory.conftest import no_room

from .conftest import Attach, make_process, open_system, read_rows

pytestmark = pytest.mark.anyio
NOTHING_MORE = 1000  # bytes that a file may have
SLOWLY = "!slow 1 " + "word " * 199 + "word"


@pytest.fixture
def clock() -> VirtualClock:
    return VirtualClock()


@pytest.fixture
async def machine(config: Config, clock: VirtualClock) -> AsyncIterator[Machine]:
    db = Database.open(config.database)
    machine = assemble(config, clock, db)
    async with running(machine.tasks):
        machine.tasks.start_soon(machine.degraded.run)
        yield machine
    await machine.models.aclose()
    await db.aclose()


@pytest.fixture(autouse=True)  # so that it is there before `attach`
async def tasks() -> AsyncIterator[TaskGroup]:
    async with running() as tasks:
        yield tasks


class Call:
    """A call under way; `answer` is its result or its error, and None as long as it waits."""

    def __init__(self, tasks: TaskGroup, call: Callable[[], Awaitable[object]]) -> None:
        self.answer: object = None
        self._answered = anyio.Event()
        tasks.start_soon(self._make, call)

    async def _make(self, call: Callable[[], Awaitable[object]]) -> None:
        try:
            self.answer = await call() or "done"
        except SyscallError as error:
            self.answer = error
        self._answered.set()

    async def hear(self) -> object:
        with anyio.fail_after(10):
            await self._answered.wait()
        return self.answer


async def fail_once(machine: Machine, tasks: TaskGroup, system: System) -> Call:
    """A print that meets the full disk; returns when the kernel has noticed."""
    call = Call(tasks, lambda: system.print("first"))
    with anyio.fail_after(10):
        while machine.degraded.reason is None:
            await machine.db.wait_failure()
    return call


async def pass_time(machine: Machine, clock: VirtualClock, seconds: float) -> None:
    """Let time pass, and the kernel notice: it tries the disk, and so do we behind it."""
    clock.advance(seconds)
    for _ in range(2):
        await machine.db.read(lambda connection: None)
        await machine.db.retry()


@asynccontextmanager
async def full_disk(machine: Machine, clock: VirtualClock) -> AsyncIterator[None]:
    """A disk that takes nothing; afterwards it does, and the kernel finds out by itself."""
    try:
        with no_room(NOTHING_MORE):
            yield
    finally:
        with anyio.fail_after(10):
            while machine.degraded.reason is not None:
                await pass_time(machine, clock, degraded.MAX_RETRY_SECONDS)


def output(connection: Connection) -> list[str]:
    query = "SELECT text FROM output ORDER BY offset_chars"
    return list(connection.exec_driver_sql(query).scalars())


async def test_calls_wait_and_go_on_by_themselves(
    attach: Attach, machine: Machine, clock: VirtualClock, tasks: TaskGroup
) -> None:
    system, process = await attach()
    async with full_disk(machine, clock):
        calls = [await fail_once(machine, tasks, system), Call(tasks, system.now)]
        await pass_time(machine, clock, 60)
        assert [call.answer for call in calls] == [None, None]
        assert machine.degraded.num_paused_calls == 1

    for call in calls:
        assert not isinstance(await call.hear(), SyscallError)
    assert await machine.db.read(output) == ["first\n"]
    assert [row.state for row in await read_rows(machine, process)] == ["DONE", "DONE"]


async def test_what_needs_no_row_works_meanwhile(
    attach: Attach, machine: Machine, clock: VirtualClock, tasks: TaskGroup
) -> None:
    system, process = await attach()
    async with full_disk(machine, clock):
        await fail_once(machine, tasks, system)

        assert await system.getpid() == process.pid
        (info,) = (await list_processes(machine, 10)).processes
        assert info.state == "WAITING"
        with pytest.raises(E_STORAGE, match="the store failed"):
            machine.degraded.require_store()


async def test_after_a_while_calls_that_have_not_begun_wait_outside_and_come_again(
    attach: Attach, machine: Machine, clock: VirtualClock, tasks: TaskGroup
) -> None:
    system, process = await attach()
    async with full_disk(machine, clock):
        calls = [await fail_once(machine, tasks, system), Call(tasks, system.now)]
        await pass_time(machine, clock, MAX_PAUSE_SECONDS)
        await anyio.wait_all_tasks_blocked()
        assert machine.degraded.num_paused_calls == 0
        assert [call.answer for call in calls] == [None, None]
        assert await load(machine.db, process.pid) == []

    for call in calls:
        assert not isinstance(await call.hear(), SyscallError)
    rows = await read_rows(machine, process)
    assert [(row.seq, row.name, row.state) for row in sorted(rows, key=lambda row: row.seq)] == [
        (0, "print", "DONE"),
        (1, "now", "DONE"),
    ]


async def test_a_call_that_had_begun_waits_as_long_as_it_takes(
    attach: Attach, machine: Machine, clock: VirtualClock, tasks: TaskGroup
) -> None:
    system, process = await attach()
    asleep = Call(tasks, lambda: system.sleep(5))
    while not await read_rows(machine, process):
        pass
    async with full_disk(machine, clock):
        await fail_once(machine, tasks, system)
        await pass_time(machine, clock, 2 * MAX_PAUSE_SECONDS)
        assert asleep.answer is None

    assert await asleep.hear() == "done"
    assert [row.state for row in await read_rows(machine, process)] == ["DONE"]


async def test_no_more_calls_are_held_than_there_is_memory_for(
    attach: Attach,
    machine: Machine,
    clock: VirtualClock,
    tasks: TaskGroup,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(degraded, "MAX_PAUSED_BYTES", 100_000)
    system, _ = await attach()
    async with full_disk(machine, clock):
        await fail_once(machine, tasks, system)
        held = Call(tasks, lambda: system.print("x" * 200_000))

        await anyio.wait_all_tasks_blocked()
        one_too_many = Call(tasks, lambda: system.print("one too many"))
        await anyio.wait_all_tasks_blocked()
        assert machine.degraded.num_paused_calls == 1

    for call in (held, one_too_many):
        assert not isinstance(await call.hear(), SyscallError)


async def test_a_killed_process_waits_for_nothing(
    attach: Attach, machine: Machine, clock: VirtualClock, tasks: TaskGroup
) -> None:
    system, process = await attach()
    async with full_disk(machine, clock):
        calls = [await fail_once(machine, tasks, system), Call(tasks, system.now)]
        await pass_time(machine, clock, 10)
        process.killed_by = "KILL"
        await pass_time(machine, clock, 10)

        assert [type(await call.hear()) for call in calls] == [E_STORAGE, E_STORAGE]


async def test_generations_hold_between_two_tokens(
    attach: Attach, machine: Machine, clock: VirtualClock, tasks: TaskGroup
) -> None:
    system, _ = await attach()
    words: list[str] = []
    begun = anyio.Event()

    def hear(word: str) -> None:
        words.append(word)
        begun.set()

    generation = Call(tasks, lambda: system.generate(SLOWLY, on_text=hear))
    await begun.wait()
    async with full_disk(machine, clock):
        await fail_once(machine, tasks, system)
        num_words = len(words)
        for _ in range(50):
            await pass_time(machine, clock, 1)
        assert len(words) <= num_words + 1

    await generation.hear()
    assert len(words) == 200


async def test_people_are_told_once_when_it_begins_and_once_when_it_ends(
    attach: Attach, machine: Machine, clock: VirtualClock, tasks: TaskGroup
) -> None:
    terminal = Terminal()
    for _ in range(2):
        system, process = await attach()
        process.terminal = terminal
    async with full_disk(machine, clock):
        calls = [await fail_once(machine, tasks, system), Call(tasks, system.now)]
        await pass_time(machine, clock, 30)
    for call in calls:
        await call.hear()
    terminal.close()

    notices = []
    while (event := await terminal.next_event()) is not None:
        notices += [event.text] if isinstance(event, Notice) else []
    assert [notice.partition(";")[0] for notice in notices] == [
        notices[0].partition(";")[0],
        "the store works again",
    ]
    assert notices[0].endswith("; processes wait until it can")


async def test_a_kernel_that_stops_waits_for_nothing(
    config: Config, clock: VirtualClock, tasks: TaskGroup
) -> None:
    db = Database.open(config.database)
    machine = assemble(config, clock, db)
    with no_room(NOTHING_MORE), anyio.fail_after(10):
        async with running(machine.tasks):
            machine.tasks.start_soon(machine.degraded.run)
            write = Call(tasks, lambda: db.write(output))
            db.write_nowait(lambda c: c.exec_driver_sql("INSERT INTO space VALUES (1, 't', 'n')"))
            await db.wait_failure()

        assert not isinstance(write.answer, str)
        with pytest.raises(E_STORAGE):
            await db.aclose()


async def test_a_call_that_is_turned_away_comes_again_under_its_number(
    config: Config, tmp_path: Path, tasks: TaskGroup
) -> None:
    """The same disk, and nobody who holds the store: then the SDK waits."""
    db = Database.open(config.database)
    machine = assemble(config, SystemClock(), db)
    process = await make_process(machine, tmp_path)
    async with open_system(machine, process) as system:
        with no_room(NOTHING_MORE):
            call = Call(tasks, lambda: system.print("first"))
            while db.failure is None:
                await db.read(output)
            assert call.answer is None
        assert not isinstance(await call.hear(), SyscallError)

    assert [row.seq for row in await load(db, process.pid)] == [0]
    await db.aclose()
