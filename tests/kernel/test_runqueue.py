"""The run queue: whoever is due goes on, in order, as many as there is room for."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import pytest

from llmos.kernel.clock import VirtualClock
from llmos.kernel.config import load_config
from llmos.kernel.machine import Machine
from llmos.kernel.main import assemble
from llmos.kernel.runqueue import MAX_DUE_AT_ONCE, MAX_NAP_SECONDS, MAX_STARTING, RunQueue
from llmos.memory import processes, waits
from llmos.memory.db import Connection, Database
from llmos.memory.journal import JournalRow, insert_row
from llmos.memory.waits import Wait
from llmos.syscalls.errors import E_STORAGE
from llmos.syscalls.tasks import running

from .conftest import make_process

pytestmark = pytest.mark.anyio


class Bed:
    """A launcher's end of the queue: it notes who is brought back."""

    def __init__(self) -> None:
        self.brought_back: list[int] = []
        self.has_room = True
        self.failures = 0

    async def bring_back(self, pid: int) -> None:
        if self.failures:
            self.failures -= 1
            raise E_STORAGE("the store failed", retry_after_seconds=1.0)
        self.brought_back.append(pid)


class SetBackClock(VirtualClock):
    """A clock that somebody sets."""

    error_seconds = 0.0

    def now(self) -> float:
        return super().now() + self.error_seconds


class Night:
    """A machine without OS processes, its queue, and its virtual clock."""

    def __init__(self, machine: Machine, clock: SetBackClock) -> None:
        self.machine, self.clock, self.bed = machine, clock, Bed()
        machine.launcher = self.bed  # type: ignore[assignment]
        self.queue = RunQueue(machine)

    async def put_to_sleep(self, seconds: float) -> int:
        """A process that sleeps for so long; its pid."""
        now = self.clock.now()

        def sleep(connection: Connection) -> int:
            pid = processes.create_row(
                connection, app="a", spec=b"", tenant="local", model="echo", state="NEW",
                parent=None, created_at=0.0,
            )  # fmt: skip
            row = JournalRow(
                pid, "0", 0, "sleep", "wait", b"", "INTENT", None, None, "", "", now, None
            )
            insert_row(connection, row)
            assert waits.fall_asleep(connection, [Wait(pid, "0", 0, "timer", now + seconds)], now)
            return pid

        pid = await self.machine.db.write(sleep)
        self.queue.poke()
        return pid

    async def pass_time(self, seconds: float) -> list[int]:
        """Let the night go on; who was brought back so far."""
        for _ in range(int(seconds)):
            await self.settle()
            self.clock.advance(1.0)
        await self.settle()
        return self.bed.brought_back

    async def settle(self) -> None:
        """Let the queue do what there is to do now: it waits for the store in a thread."""
        for _ in range(20):
            await anyio.wait_all_tasks_blocked()
            await self.machine.db.flush()


@asynccontextmanager
async def open_night(tmp_path: Path) -> AsyncIterator[Night]:
    config = load_config({"LLMOS_HOME": str(tmp_path / "home"), "LLMOS_MODEL": "echo"})
    db, clock = Database.open(config.database), SetBackClock()
    night = Night(assemble(config, clock, db), clock)
    async with running() as tasks:
        tasks.start_soon(night.queue.run)
        yield night
    await db.aclose()


@pytest.fixture
async def night(tmp_path: Path) -> AsyncIterator[Night]:
    async with open_night(tmp_path) as night:
        yield night


async def test_sleepers_go_on_in_the_order_of_their_times(night: Night) -> None:
    pids = [await night.put_to_sleep(seconds) for seconds in (3, 1, 2)]

    assert await night.pass_time(0) == []
    assert await night.pass_time(2) == [pids[1], pids[2]]
    assert await night.pass_time(2) == [pids[1], pids[2], pids[0]]


async def test_a_storm_is_served_in_order_and_whole(night: Night) -> None:
    pids = [await night.put_to_sleep(1) for _ in range(3 * MAX_DUE_AT_ONCE)]

    assert await night.pass_time(1) == pids


async def test_who_is_due_waits_for_room(night: Night) -> None:
    night.bed.has_room = False
    pid = await night.put_to_sleep(1)
    assert await night.pass_time(2) == []

    night.bed.has_room = True
    night.machine.table.tell_end(99, None, None)

    assert await night.pass_time(0) == [pid]


async def test_few_begin_at_a_time(night: Night, tmp_path: Path) -> None:
    others = [await make_process(night.machine, tmp_path) for _ in range(MAX_STARTING)]
    pid = await night.put_to_sleep(1)
    assert await night.pass_time(2) == []

    others[0].state = "READY"
    others[0].greeted.set()

    assert await night.pass_time(0) == [pid]


async def test_who_is_awake_is_brought_back_before_who_is_due(night: Night) -> None:
    pid = await night.put_to_sleep(1)
    night.clock.advance(5)
    night.queue.add([7, 8])

    assert await night.pass_time(0) == [7, 8, pid]


async def test_who_lives_is_told_and_not_brought_back(night: Night, tmp_path: Path) -> None:
    process = await make_process(night.machine, tmp_path)

    night.queue.add([process.pid])

    assert process.is_wanted
    assert await night.pass_time(0) == []


async def test_who_was_left_behind_goes_on_when_that_is_asked_for(night: Night) -> None:
    asleep = await night.put_to_sleep(1000)
    left = await night.put_to_sleep(1000)
    await night.machine.db.write(lambda c: waits.wake(c, [left]))
    assert await night.pass_time(0) == []

    night.queue.recover()

    assert await night.pass_time(0) == [left]
    assert asleep not in night.bed.brought_back


async def test_until_it_is_asked_nobody_is_due(tmp_path: Path) -> None:
    async with open_night(tmp_path) as before:
        pid = await before.put_to_sleep(1)
    async with open_night(tmp_path) as night:
        assert await night.pass_time(5) == []

        night.queue.recover()

        assert await night.pass_time(0) == [pid]


async def test_a_clock_that_is_set_back_lets_nobody_sleep_longer_than_twice(night: Night) -> None:
    pid = await night.put_to_sleep(10)
    await night.pass_time(5)

    night.clock.error_seconds = -1_000_000.0

    assert await night.pass_time(3) == []
    assert await night.pass_time(MAX_NAP_SECONDS) == [pid]


async def test_a_clock_that_is_set_forward_wakes_within_a_nap(night: Night) -> None:
    pid = await night.put_to_sleep(1_000_000)
    await night.pass_time(1)

    night.clock.error_seconds = 1_000_000.0

    assert await night.pass_time(MAX_NAP_SECONDS) == [pid]


async def test_who_cannot_be_brought_back_while_the_store_fails_is_tried_again(
    night: Night,
) -> None:
    night.bed.failures = 2
    night.queue.add([7])

    assert await night.pass_time(0) == []
    assert await night.pass_time(20) == [7]


async def test_who_was_woken_in_a_write_that_nobody_heard_of_is_found(night: Night) -> None:
    unheard = await night.put_to_sleep(1000.0)
    due = await night.put_to_sleep(1.0)
    await night.machine.db.write(lambda connection: waits.wake(connection, [unheard]))
    night.bed.failures = 1

    assert sorted(await night.pass_time(60.0)) == [unheard, due]
