"""Waits as rows: what fires one wakes its process, once, whatever comes first."""

import pytest

from llmos.memory import mail, processes, waits
from llmos.memory.db import Connection, Database
from llmos.memory.journal import JournalRow, finish_row, insert_row
from llmos.memory.waits import Wait

pytestmark = pytest.mark.anyio
NOW = 1000.0


def create(connection: Connection, parent: int | None = None) -> int:
    return processes.create_row(
        connection, app="ask", spec=b"", tenant="local", model="echo", state="NEW",
        parent=parent, created_at=0.0,
    )  # fmt: skip


def begin(connection: Connection, pid: int, seq: int = 0) -> None:
    """The INTENT row of a wait."""
    row = JournalRow(pid, "0", seq, "sleep", "wait", b"", "INTENT", None, None, "", "", 1.0, None)
    insert_row(connection, row)


async def add(db: Database, parent: int | None = None) -> int:
    """A process with a wait under way; its pid."""

    def make(connection: Connection) -> int:
        pid = create(connection, parent)
        begin(connection, pid)
        return pid

    return await db.write(make)


def timer(pid: int, due_at: float) -> Wait:
    return Wait(pid, "0", 0, "timer", due_at)


async def sleep(db: Database, *rows: Wait) -> bool:
    return await db.write(lambda connection: waits.fall_asleep(connection, rows, NOW))


async def state_of(db: Database, pid: int) -> str:
    record = await processes.get(db, pid)
    assert record is not None
    return record.state


async def test_a_process_sleeps_until_its_time(db: Database) -> None:
    pid = await add(db)
    assert await sleep(db, timer(pid, NOW + 5))

    early = await db.write(lambda c: waits.wake_due(c, NOW + 4, 10))
    assert (early, await state_of(db, pid)) == ([], "EVICTED")
    due = await db.write(lambda c: waits.wake_due(c, NOW + 5, 10))

    assert (due, await state_of(db, pid)) == ([pid], "NEW")
    assert await waits.find_waits(db, [pid]) == {}


async def test_who_is_due_first_is_woken_first_and_so_many_at_a_time(db: Database) -> None:
    pids = [await add(db) for _ in range(4)]
    for pid, seconds in zip(pids, (3, 1, 4, 2), strict=True):
        await sleep(db, timer(pid, NOW + seconds))

    woken = [await db.write(lambda c: waits.wake_due(c, NOW + 9, 3)) for _ in range(2)]

    assert woken == [[pids[1], pids[3], pids[0]], [pids[2]]]


async def test_the_next_time_is_the_earliest_one(db: Database) -> None:
    assert await waits.next_due(db) is None
    pids = [await add(db) for _ in range(3)]
    for pid, due_at in zip(pids, (NOW + 9, NOW + 3, None), strict=True):
        await sleep(db, Wait(pid, "0", 0, "person", due_at))

    assert await waits.next_due(db) == NOW + 3


async def test_a_time_that_has_come_already_lets_nobody_sleep(db: Database) -> None:
    pid = await add(db)

    assert not await sleep(db, timer(pid, NOW))

    assert await state_of(db, pid) == "NEW"
    assert await waits.find_waits(db, [pid]) == {}


async def test_a_call_that_has_ended_lets_nobody_sleep(db: Database) -> None:
    pid = await add(db)
    await db.write(lambda c: finish_row(c, pid, "0", 0, "DONE", b"", None, 2.0))

    assert not await sleep(db, timer(pid, NOW + 5))


@pytest.mark.parametrize("first", ["the end", "the sleep"])
async def test_a_childs_end_wakes_its_parent_whichever_comes_first(
    db: Database, first: str
) -> None:
    parent = await add(db)
    child = await add(db, parent)

    def end(connection: Connection) -> list[int]:
        processes.change(connection, child, ended_at=NOW, state="ZOMBIE")
        return waits.fire(connection, "child", child)

    woken = await db.write(end) if first == "the end" else None
    is_asleep = await sleep(db, Wait(parent, "0", 0, "child", None, child))
    woken = await db.write(end) if woken is None else woken

    assert (is_asleep, woken) == ((False, []) if first == "the end" else (True, [parent]))
    assert await state_of(db, parent) == "NEW"


@pytest.mark.parametrize("first", ["the message", "the sleep"])
async def test_a_message_wakes_its_receiver_whichever_comes_first(db: Database, first: str) -> None:
    pid = await add(db)

    def send(connection: Connection) -> list[int]:
        mail.post(connection, pid, 1, NOW, "hello")
        return waits.fire(connection, "message", pid)

    woken = await db.write(send) if first == "the message" else None
    is_asleep = await sleep(db, Wait(pid, "0", 0, "message", None, pid))
    woken = await db.write(send) if woken is None else woken

    assert (is_asleep, woken) == ((False, []) if first == "the message" else (True, [pid]))


async def test_who_is_awake_is_not_woken(db: Database) -> None:
    pid = await add(db)
    await sleep(db, timer(pid, NOW + 5))

    woken = [await db.write(lambda c: waits.wake(c, [pid, pid])) for _ in range(2)]

    assert woken == [[pid], []]


async def test_who_is_stopped_does_not_fall_asleep(db: Database) -> None:
    pid = await add(db)
    await processes.update(db, pid, state="STOPPED")

    assert not await sleep(db, timer(pid, NOW + 5))

    assert await state_of(db, pid) == "STOPPED"


async def test_timers_begin_anew_when_the_clock_was_set_back(db: Database) -> None:
    pid = await add(db)
    await sleep(db, timer(pid, NOW + 5))

    changed = await db.write(lambda c: [waits.begin_anew(c, now) for now in (NOW + 1, NOW - 500)])

    assert changed == [0, 1]
    assert await waits.next_due(db) == NOW - 495


async def test_what_was_running_is_to_go_on_and_what_sleeps_or_is_stopped_is_not(
    db: Database,
) -> None:
    running, asleep, stopped, ended = [await add(db) for _ in range(4)]
    await sleep(db, timer(asleep, NOW + 5))
    await processes.update(db, stopped, state="STOPPED")
    await processes.update(db, ended, state="ZOMBIE", ended_at=NOW)

    assert await waits.find_unfinished(db) == [running]


async def test_waits_are_found_by_their_process(db: Database) -> None:
    pid, other = await add(db), await add(db)
    await db.write(lambda c: begin(c, pid, 1))
    rows = (timer(pid, NOW + 5), Wait(pid, "0", 1, "person"))
    await sleep(db, *rows)

    found = await waits.find_waits(db, [pid, other])

    assert found == {pid: rows}
    assert await waits.find_started(db, pid) == {("0", 0): 1.0, ("0", 1): 1.0}
