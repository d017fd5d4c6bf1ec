"""A full disk: callers hear of it, nothing acknowledged is lost, space makes it work again."""

import errno
import os
from pathlib import Path

import anyio
import pytest

from llmos.memory.db import Connection, Database
from llmos.syscalls.errors import E_STORAGE

from .conftest import BIG, kept, no_room, put

pytestmark = pytest.mark.anyio


def forbid_growth(connection: Connection) -> None:
    """No further page for the file: SQLite's own "disk is full", while the statement runs."""
    connection.exec_driver_sql("PRAGMA max_page_count = 1")


def allow_growth(connection: Connection) -> None:
    connection.exec_driver_sql("PRAGMA max_page_count = 1000000")


async def test_a_full_disk_is_an_error_and_loses_nothing(db: Database) -> None:
    await db.write(put(1, "small"))
    await db.write(forbid_growth)

    with pytest.raises(E_STORAGE, match="full"):
        await db.write(put(2, BIG))

    assert await db.read(kept) == [1]
    assert isinstance(db.failure, E_STORAGE)


async def test_writes_work_again_when_there_is_space(db: Database) -> None:
    await db.write(forbid_growth)
    with pytest.raises(E_STORAGE):
        await db.write(put(1, BIG))
    await db.write(allow_growth)

    await db.write(put(2, BIG))

    assert await db.read(kept) == [2]
    assert db.failure is None


async def test_a_commit_that_the_system_refuses_is_an_error(db: Database) -> None:
    await db.write(put(1, "small"))

    with no_room(), pytest.raises(E_STORAGE):
        await db.write(put(2, BIG))

    assert await db.read(kept) == [1]
    await db.write(put(3, BIG))
    assert await db.read(kept) == [1, 3]


async def test_no_caller_is_told_a_prefix_is_durable_that_is_not(db: Database) -> None:
    with no_room():
        db.write_nowait(put(1, BIG))

        with pytest.raises(E_STORAGE):
            await db.flush()
        with pytest.raises(E_STORAGE):
            await db.write(put(2, "small"))

        assert await db.read(kept) == []


async def test_what_nobody_waited_for_is_written_first_when_there_is_space(db: Database) -> None:
    with no_room():
        db.write_nowait(put(1, BIG))
        with pytest.raises(E_STORAGE):
            await db.write(put(2, "small"))

    await db.write(put(3, "small"))

    assert await db.read(kept) == [1, 3]


async def test_the_writer_tries_again_by_itself(db: Database) -> None:
    with no_room():
        db.write_nowait(put(1, BIG))
        with pytest.raises(E_STORAGE):
            await db.flush()

    with anyio.fail_after(10):
        while db.failure is not None:
            await db.read(kept)

    assert await db.read(kept) == [1]


async def test_every_caller_of_a_failed_transaction_hears_of_it(db: Database) -> None:
    failed: list[int] = []

    async def write(number: int) -> None:
        try:
            await db.write(put(number, BIG))
        except E_STORAGE:
            failed.append(number)

    with no_room():
        async with anyio.create_task_group() as tasks:
            for number in range(32):
                tasks.start_soon(write, number)

    assert sorted(failed) == list(range(32))
    assert await db.read(kept) == []


@pytest.mark.parametrize(("call", "reason"), [("open", errno.ENOSPC), ("fsync", errno.EIO)])
def test_a_file_that_the_disk_does_not_take_is_not_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, reason: int
) -> None:
    """Its name may be missing after a power cut if its folder cannot be synced."""

    def fail(*arguments: object) -> None:
        raise OSError(reason, os.strerror(reason))

    monkeypatch.setattr(os, call, fail)

    with pytest.raises(E_STORAGE, match=rf"{os.strerror(reason)}; fix: make room .* or mend it"):
        Database.open(tmp_path / "memory.db")


async def test_closing_on_a_full_disk_says_that_something_was_lost(db: Database) -> None:
    with no_room():
        db.write_nowait(put(1, BIG))

        with pytest.raises(E_STORAGE):
            await db.aclose()
