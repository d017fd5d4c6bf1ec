"""A failing disk while callers are told to wait: who waits, who is given up, what is done once."""

import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import anyio
import pytest
from anyio import create_task_group
from anyio.abc import TaskGroup
from sqlalchemy import URL, NullPool, create_engine

from llmos.memory.db import Connection, Database, Operation, prepare
from llmos.syscalls.errors import E_STORAGE

from .conftest import BIG, kept, no_room, put

pytestmark = pytest.mark.anyio


@pytest.fixture
async def held(db: Database) -> AsyncIterator[Database]:
    with db.held():
        yield db


class Caller:
    """A write that somebody waits for; `answer` is None as long as it waits."""

    def __init__(
        self,
        tasks: TaskGroup,
        db: Database,
        operation: Operation,
        *,
        owner: int | None = None,
        keep: bool = False,
    ) -> None:
        self.answer: str | E_STORAGE | None = None
        self._answered = anyio.Event()
        tasks.start_soon(self._write, partial(db.write, operation, owner=owner, keep=keep))

    async def _write(self, write: Callable[[], Awaitable[object]]) -> None:
        try:
            await write()
            self.answer = "done"
        except E_STORAGE as error:
            self.answer = error
        self._answered.set()

    async def hear(self) -> str | E_STORAGE | None:
        with anyio.fail_after(10):
            await self._answered.wait()
        return self.answer


async def test_a_caller_waits_until_there_is_room(held: Database) -> None:
    async with create_task_group() as tasks:
        with no_room():
            caller = Caller(tasks, held, put(1, BIG))
            await held.wait_failure()
            await held.retry()
            assert caller.answer is None
            assert "full" in str(held.failure) or "I/O" in str(held.failure)
        await held.retry()

        assert await caller.hear() == "done"
    assert held.failure is None


async def test_what_comes_while_the_disk_fails_waits_behind(held: Database) -> None:
    async with create_task_group() as tasks:
        with no_room():
            first = Caller(tasks, held, put(1, BIG))
            await held.wait_failure()
            second = Caller(tasks, held, put(2, "small"))
            await held.retry()
            assert (first.answer, second.answer) == (None, None)
        await held.retry()

        assert (await first.hear(), await second.hear()) == ("done", "done")
    assert await held.read(kept) == [1, 2]


async def test_the_pause_is_what_saves_the_write(db: Database) -> None:
    """The control: the same disk, and a store that nobody holds."""
    async with create_task_group() as tasks:
        with no_room():
            caller = Caller(tasks, db, put(1, BIG))
            assert isinstance(await caller.hear(), E_STORAGE)
        await db.retry()

    assert await db.read(kept) == []


async def test_who_is_given_up_hears_when_to_come_back_and_nothing_was_done(
    held: Database,
) -> None:
    async with create_task_group() as tasks:
        with no_room():
            dropped = Caller(tasks, held, put(1, BIG))
            owned = Caller(tasks, held, put(2, BIG), keep=True)
            held.write_nowait(put(3, BIG))
            await held.wait_failure()
            held.give_up()
            error = await dropped.hear()
        await held.retry()
        assert await owned.hear() == "done"

    assert isinstance(error, E_STORAGE)
    assert error.retry_after_seconds == 5
    assert await held.read(kept) == [2, 3]


async def test_an_owner_that_goes_leaves_the_others_waiting(held: Database) -> None:
    async with create_task_group() as tasks:
        with no_room():
            gone = [Caller(tasks, held, put(n, BIG), owner=7, keep=n == 2) for n in (1, 2)]
            other = Caller(tasks, held, put(3, BIG), owner=8)
            await held.wait_failure()
            held.give_up_owned(7)
            assert [isinstance(await caller.hear(), E_STORAGE) for caller in gone] == [True, True]
        await held.retry()
        await other.hear()

    assert await held.read(kept) == [3]


async def test_a_disk_that_works_gives_nobody_up(held: Database) -> None:
    async with create_task_group() as tasks:
        caller = Caller(tasks, held, put(1, "small"), owner=7)
        held.give_up()
        held.give_up_owned(7)

        assert await caller.hear() == "done"


async def test_a_try_with_nothing_queued_tells_whether_the_disk_works(held: Database) -> None:
    async with create_task_group() as tasks:
        with no_room(max_bytes=1000):
            Caller(tasks, held, put(1, "small"))
            await held.wait_failure()
            held.give_up()
            await held.retry()
            assert held.failure is not None
        await held.retry()

        assert held.failure is None


@pytest.mark.parametrize("end", ["release", "close"])
async def test_nobody_waits_for_a_store_that_is_let_go(db: Database, end: str) -> None:
    async with create_task_group() as tasks:
        with no_room():
            with db.held():
                caller = Caller(tasks, db, put(1, BIG), keep=True)
                await db.wait_failure()
                if end == "close":
                    with pytest.raises(E_STORAGE):
                        await db.aclose()
                    return

            assert isinstance(await caller.hear(), E_STORAGE)


async def test_damage_is_not_waited_for(held: Database) -> None:
    def fail(connection: Connection) -> None:
        raise make_error(sqlite3.SQLITE_CORRUPT)

    with pytest.raises(E_STORAGE) as caught, anyio.fail_after(10):
        await held.write(fail)

    assert caught.value.retry_after_seconds is None


# -- a commit that was durable and was reported as failed


def make_error(code: int) -> sqlite3.OperationalError:
    error = sqlite3.OperationalError("disk I/O error")
    error.sqlite_errorcode = code
    return error


class Unacknowledged(sqlite3.Connection):
    """SQLite on a disk that makes a transaction durable and then says that it failed."""

    num_failures = 0
    forgets_number = False

    def execute(self, sql: str, *rest: object) -> sqlite3.Cursor:
        done = super().execute(sql, *rest)  # type: ignore[arg-type]
        if sql == "COMMIT" and self.num_failures > 0:
            self.num_failures -= 1
            if self.forgets_number:
                super().execute("UPDATE last_commit SET number = 0")
            raise make_error(sqlite3.SQLITE_IOERR)
        return done


@asynccontextmanager
async def unacknowledged(path: Path) -> AsyncIterator[tuple[Database, Unacknowledged]]:
    """A held store over such a disk; it works as yet."""
    engine = create_engine(
        URL.create("sqlite", database=str(path)),
        poolclass=NullPool,
        connect_args={"factory": Unacknowledged, "isolation_level": None},
    )
    connection = engine.connect()
    prepare(connection)
    driver = connection.connection.dbapi_connection
    assert isinstance(driver, Unacknowledged)
    db = Database(path, connection)
    with db.held():
        yield db, driver
    await db.aclose()


def append(text: str) -> Operation:
    return lambda connection: connection.exec_driver_sql(
        "INSERT INTO output(pid, offset_chars, num_chars, text)"
        " SELECT 1, count(*), 1, ? FROM output",
        (text,),
    )


def texts(connection: Connection) -> list[str]:
    return list(
        connection.exec_driver_sql("SELECT text FROM output ORDER BY offset_chars").scalars()
    )


async def test_a_commit_that_was_durable_is_not_done_again(tmp_path: Path) -> None:
    async with unacknowledged(tmp_path / "memory.db") as (db, disk):
        disk.num_failures = 1
        db.write_nowait(append("a"))
        with anyio.fail_after(10):
            assert await db.write(lambda connection: texts(connection)) == ["a"]
            await db.write(append("b"))

        assert await db.read(texts) == ["a", "b"]
        assert db.failure is None


async def test_without_the_number_in_the_file_it_would_be_done_twice(tmp_path: Path) -> None:
    """The control: the same disk, and no way to see that the transaction is there."""
    async with unacknowledged(tmp_path / "memory.db") as (db, disk):
        disk.num_failures, disk.forgets_number = 1, True
        db.write_nowait(append("a"))
        await db.wait_failure()
        await db.retry()

        assert await db.read(texts) == ["a", "a"]


async def test_an_error_that_an_operation_raised_is_told_after_a_doubtful_commit(
    tmp_path: Path,
) -> None:
    async with unacknowledged(tmp_path / "memory.db") as (db, disk), create_task_group() as tasks:
        disk.num_failures = 1
        good = Caller(tasks, db, append("a"))
        bad = Caller(tasks, db, lambda c: c.exec_driver_sql("INSERT INTO output VALUES (1)"))

        assert await good.hear() == "done"
        assert isinstance(await bad.hear(), E_STORAGE)
        assert await db.read(texts) == ["a"]
