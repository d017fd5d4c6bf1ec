"""The table of processes."""

from functools import partial

import pytest

from llmos.memory import processes
from llmos.memory.db import Connection, Database
from llmos.memory.journal import append_output
from llmos.syscalls.errors import E_STORAGE

pytestmark = pytest.mark.anyio


async def add(db: Database, app: str, parent: int | None = None) -> int:
    return await db.write(
        lambda connection: processes.create_row(
            connection,
            app=app,
            spec=b"\x00spec\xff",
            tenant="local",
            model="echo",
            state="NEW",
            parent=parent,
            created_at=1.5,
        )
    )


async def test_a_process_comes_back_as_it_was_written(db: Database) -> None:
    pid = await add(db, "ask", parent=7)

    record = await processes.get(db, pid)

    assert record == processes.ProcessRecord(
        pid, 7, "ask", "local", "echo", "NEW", None, None, 1.5, None, 0, 0, b"\x00spec\xff", None
    )


async def test_an_ending_is_recorded(db: Database) -> None:
    pid = await add(db, "ask")

    await processes.update(
        db, pid, state="ZOMBIE", exit_status="exited", exit_code=3, result="391", ended_at=2.5
    )

    record = await processes.get(db, pid)
    assert record is not None
    assert (record.state, record.exit_status, record.exit_code) == ("ZOMBIE", "exited", 3)
    assert (record.result, record.ended_at) == ("391", 2.5)


async def test_a_process_that_never_was_is_none_and_cannot_change(db: Database) -> None:
    assert await processes.get(db, 99) is None
    with pytest.raises(E_STORAGE, match="99"):
        await processes.update(db, 99, state="ZOMBIE")


async def test_the_newest_are_listed_newest_last(db: Database) -> None:
    pids = [await add(db, app) for app in ("a", "b", "c")]

    listed = await processes.list(db, limit=2)

    assert [record.pid for record in listed] == pids[1:]


async def test_a_pid_is_never_used_twice(db: Database) -> None:
    pid = await add(db, "ask")
    await db.write(lambda c: c.exec_driver_sql("DELETE FROM process").rowcount)

    assert await add(db, "ask") == pid + 1


async def test_what_has_ended_is_not_changed_as_what_has_not(db: Database) -> None:
    pids = [await add(db, "ask") for _ in range(2)]
    await processes.update(db, pids[0], state="ZOMBIE", ended_at=2.5)

    for pid in pids:
        await db.write(partial(processes.change_unfinished, pid=pid, state="STOPPED"))

    records = [await processes.get(db, pid) for pid in pids]
    assert [record and record.state for record in records] == ["ZOMBIE", "STOPPED"]


async def test_a_family_is_found_by_its_first_ancestor_and_its_living_children(
    db: Database,
) -> None:
    root = await add(db, "shell")
    child = await add(db, "ask", parent=root)
    grandchild, gone = await add(db, "ask", parent=child), await add(db, "ask", parent=child)
    await processes.update(db, gone, state="ZOMBIE", ended_at=2.5)

    found = [await processes.find_left(db, pid) for pid in (root, child, grandchild)]

    assert [left and left.root for left in found] == [root] * 3
    assert await db.read(lambda c: processes.find_children(c, child)) == (grandchild,)


async def test_what_there_is_of_a_process_is_found_in_one_read(db: Database) -> None:
    pid = await add(db, "ask")
    await db.write(lambda connection: append_output(connection, pid, "zwölf"))

    found = await processes.find_left(db, pid)

    assert found == (await processes.get(db, pid), pid, 5)
    assert await processes.find_left(db, pid + 1) is None


async def test_a_change_shares_its_transaction_with_others(db: Database) -> None:
    pid = await add(db, "ask")

    def refused(connection: Connection) -> None:
        processes.change(connection, pid, state="ZOMBIE")
        raise E_STORAGE("no")

    with pytest.raises(E_STORAGE):
        await db.write(refused)

    record = await processes.get(db, pid)
    assert record is not None
    assert record.state == "NEW"


async def test_a_process_whose_row_is_gone_is_missed(db: Database) -> None:
    pids = [await add(db, app) for app in ("a", "b", "c")]
    await db.write(lambda c: c.exec_driver_sql("DELETE FROM process WHERE app = 'c'").rowcount)

    with pytest.raises(E_STORAGE, match=f"process {pids[2]} is missing"):
        await processes.get(db, pids[2])

    assert [record.state for record in await processes.list(db)] == ["NEW", "NEW", "DAMAGED"]
