"""The database file: opening, refusing, group commit, reading."""

import sqlite3
import stat
import sys
from pathlib import Path

import anyio
import pytest

from llmos.memory.db import Connection, Database, Operation
from llmos.memory.migrations import APPLICATION_ID, STEPS
from llmos.syscalls.errors import E_ARG, E_STORAGE

pytestmark = pytest.mark.anyio


def add(name: str) -> Operation:
    return lambda connection: connection.exec_driver_sql(
        "INSERT INTO space(tenant, name) VALUES ('t', ?)", (name,)
    )


def names(connection: Connection) -> list[str]:
    return list(connection.exec_driver_sql("SELECT name FROM space ORDER BY id").scalars())


def pragma(connection: Connection, name: str) -> object:
    return connection.exec_driver_sql(f"PRAGMA {name}").scalar_one()


async def test_a_new_file_is_its_owners_alone_and_ours(db: Database) -> None:
    assert stat.S_IMODE(db.path.stat().st_mode) == 0o600
    assert await db.read(lambda c: pragma(c, "application_id")) == APPLICATION_ID
    assert await db.read(lambda c: pragma(c, "user_version")) == len(STEPS)


async def test_the_writer_is_durable_and_strict(db: Database) -> None:
    expected = {
        "journal_mode": "wal",
        "synchronous": 2,
        "busy_timeout": 5000,
        "foreign_keys": 1,
        "trusted_schema": 0,
        "cell_size_check": 1,
        "mmap_size": 0,
        "wal_autocheckpoint": 0,
        "recursive_triggers": 1,
    }

    found = await db.write(lambda c: {name: pragma(c, name) for name in expected})

    assert found == expected


async def test_what_was_written_is_there_after_reopening(tmp_path: Path) -> None:
    first = Database.open(tmp_path / "memory.db")
    await first.write(add("kept"))
    await first.aclose()

    second = Database.open(tmp_path / "memory.db")

    assert await second.read(names) == ["kept"]
    await second.aclose()


async def test_closing_leaves_one_file_and_refuses_more_work(tmp_path: Path) -> None:
    db = Database.open(tmp_path / "memory.db")
    db.write_nowait(add("kept"))
    await db.aclose()
    await db.aclose()

    assert [path.name async for path in anyio.Path(tmp_path).iterdir()] == ["memory.db"]
    with pytest.raises(E_STORAGE, match="closed"):
        await db.write(add("late"))
    with pytest.raises(E_STORAGE, match="closed"):
        await db.read(names)


async def test_a_read_sees_every_acknowledged_write(db: Database) -> None:
    for number in range(20):
        await db.write(add(str(number)))

        assert len(await db.read(names)) == number + 1


async def test_writes_keep_their_order_whoever_waits(db: Database) -> None:
    db.write_nowait(add("a"))
    db.write_nowait(add("b"))
    await db.write(add("c"))

    assert await db.read(names) == ["a", "b", "c"]


async def test_a_write_returns_what_its_operation_returned(db: Database) -> None:
    assert await db.write(lambda connection: 17 * 23) == 391


async def test_an_operation_that_raises_is_undone_alone(db: Database) -> None:
    def half_done(connection: Connection) -> None:
        add("half")(connection)
        raise E_ARG("no", field="x")

    async with anyio.create_task_group() as tasks:
        for number in range(8):
            tasks.start_soon(db.write, add(str(number)))
        with pytest.raises(E_ARG, match="no"):
            await db.write(half_done)

    assert sorted(await db.read(names)) == [str(number) for number in range(8)]


async def test_a_refused_statement_is_named_without_sql(db: Database) -> None:
    await db.write(add("once"))

    with pytest.raises(E_STORAGE) as caught:
        await db.write(add("once"))

    assert "UNIQUE" in caught.value.message
    assert "INSERT" not in caught.value.message
    assert db.failure is None


async def test_no_error_of_an_operation_leaves_its_caller_waiting(db: Database) -> None:
    with anyio.fail_after(5):
        with pytest.raises(RuntimeError, match="StopIteration"):
            await db.write(lambda connection: next(iter(())))
        with pytest.raises(SystemExit):
            await db.write(lambda connection: sys.exit(3))

    await db.write(add("next"))
    assert await db.read(names) == ["next"]


async def test_an_error_that_nobody_waited_for_reaches_the_next_who_waits(db: Database) -> None:
    await db.write(add("once"))
    db.write_nowait(add("once"))

    with pytest.raises(E_STORAGE, match="UNIQUE"):
        await db.write(add("after"))

    await db.write(add("later"))
    assert await db.read(names) == ["once", "later"]


async def test_a_cancelled_caller_does_not_stop_its_write(db: Database) -> None:
    with anyio.CancelScope() as scope:
        scope.cancel()
        await db.write(add("kept"))

    await db.flush()
    assert await db.read(names) == ["kept"]


async def test_readers_cannot_write(db: Database) -> None:
    with pytest.raises(E_STORAGE, match="readonly"):
        await db.read(lambda connection: bool(add("no")(connection)))


async def test_an_operation_that_ends_the_transaction_fails_alone_and_loudly(db: Database) -> None:
    with pytest.raises(E_STORAGE, match="ended the transaction"):
        await db.write(lambda connection: connection.rollback())

    await db.write(add("next"))
    assert await db.read(names) == ["next"]


async def test_the_log_is_copied_back_and_bounded(db: Database) -> None:
    def fill(connection: Connection) -> None:
        connection.exec_driver_sql(
            "INSERT INTO output(pid, offset_chars, num_chars, text)"
            " VALUES (1, (SELECT count(*) FROM output), 1, ?)",
            ("x" * 400_000,),
        )

    for _ in range(100):
        await db.write(fill)

    log = db.path.with_name("memory.db-wal")
    assert log.stat().st_size < 10_000_000
    assert db.path.stat().st_size > 30_000_000


async def test_an_idle_store_has_an_empty_log(db: Database) -> None:
    log = anyio.Path(db.path.with_name("memory.db-wal"))
    await db.write(add("a"))

    with anyio.fail_after(10):
        while (await log.stat()).st_size > 0:
            pass


def test_a_file_of_another_program_is_refused_untouched(tmp_path: Path) -> None:
    path = tmp_path / "theirs.db"
    with sqlite3.connect(path) as theirs:
        theirs.execute("CREATE TABLE t(x)")
    theirs.close()
    before = path.read_bytes()

    with pytest.raises(E_STORAGE, match="another program's"):
        Database.open(path)

    assert path.read_bytes() == before


def test_a_newer_schema_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "memory.db"
    with sqlite3.connect(path) as newer:
        newer.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        newer.execute(f"PRAGMA user_version = {len(STEPS) + 1}")
    newer.close()

    with pytest.raises(E_STORAGE, match="update llmos"):
        Database.open(path)


@pytest.mark.parametrize(
    "content", [b"not a database at all" * 100, b"SQLite format 3\0" + b"?" * 99]
)
def test_a_file_that_is_no_database_is_refused_in_one_line(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "memory.db"
    path.write_bytes(content)

    with pytest.raises(E_STORAGE, match="cannot open") as caught:
        Database.open(path)

    assert "\n" not in caught.value.message


@pytest.mark.slow
async def test_a_file_that_another_program_holds_is_named(tmp_path: Path) -> None:
    path = tmp_path / "memory.db"
    await Database.open(path).aclose()
    other = sqlite3.connect(path)
    other.execute("PRAGMA locking_mode = EXCLUSIVE")
    other.execute("BEGIN EXCLUSIVE")

    with pytest.raises(E_STORAGE, match="end the program that uses it"):
        Database.open(path)

    other.close()


def test_a_folder_that_does_not_exist_is_named(tmp_path: Path) -> None:
    with pytest.raises(E_STORAGE, match="nowhere"):
        Database.open(tmp_path / "nowhere" / "memory.db")


def test_a_folder_in_place_of_the_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(E_STORAGE, match="cannot open"):
        Database.open(tmp_path)
