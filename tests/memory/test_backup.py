"""Backup and restore: whole, private, checked, and never a good file lost for a bad one."""

import os
import sqlite3
import stat
from contextlib import closing
from pathlib import Path

import anyio
import anyio.to_thread
import pytest

from llmos.memory import processes
from llmos.memory.backup import back_up, restore
from llmos.memory.db import Connection, Database
from llmos.memory.migrations import STEPS
from llmos.syscalls.errors import E_ARG, E_STORAGE

from .example import add_process, edit, make_example, read_all


@pytest.fixture
def path(tmp_path: Path) -> Path:
    anyio.run(make_example, tmp_path / "memory.db")
    return tmp_path / "memory.db"


def values(path: Path, num_processes: int = 3) -> dict[str, object]:
    """Everything in a store."""

    async def read() -> dict[str, object]:
        db = Database.open(path)
        try:
            return await read_all(db, num_processes)
        finally:
            await db.aclose()

    return anyio.run(read)


def add_one(path: Path) -> dict[str, bytes]:
    """Add a process to a store; its files as a kernel that is killed now leaves them."""

    async def add() -> dict[str, bytes]:
        db = Database.open(path)
        await db.write(add_process)
        left = {end: path.with_name(path.name + end).read_bytes() for end in ("", "-wal")}
        await db.aclose()
        return left

    return anyio.run(add)


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_a_backup_is_one_private_file_with_everything_in_it(path: Path) -> None:
    target = path.with_name("backup")

    counts = back_up(path, target)

    assert (counts.num_processes, counts.num_calls) == (3, 27)
    assert stat.S_IMODE(target.stat().st_mode) == 0o600
    assert not {name for name in names(path.parent) if name.endswith((".part", "backup-wal"))}
    assert values(target) == values(path)


@pytest.mark.anyio
async def test_a_backup_that_is_made_while_others_write_is_of_one_moment(path: Path) -> None:
    """Each transaction adds a whole process; a backup has whole ones alone."""
    db = Database.open(path)

    async def write(scope: anyio.CancelScope) -> None:
        while not scope.cancel_called:
            await db.write(add_process)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(write, tasks.cancel_scope)
        counted = []
        for number in range(4):
            target = path.with_name(f"backup {number}")
            await db.write(add_process)
            counts = await anyio.to_thread.run_sync(back_up, path, target)
            counted.append(counts.num_processes)
            assert counts.num_calls == 9 * counts.num_processes
        tasks.cancel_scope.cancel()
    await db.aclose()

    assert counted == sorted(set(counted))


@pytest.mark.anyio
async def test_what_is_only_in_the_log_is_in_the_backup(path: Path) -> None:
    db = Database.open(path)
    await db.write(add_process)

    counts = back_up(path, path.with_name("backup"))

    assert counts.num_processes == 4
    await db.aclose()


def test_a_damaged_store_does_not_replace_a_good_backup(path: Path) -> None:
    target = path.with_name("backup")
    back_up(path, target)
    before = target.read_bytes()
    edit(path, "UPDATE journal SET result = X'00' WHERE pid = 2 AND seq = 4")

    with pytest.raises(E_STORAGE, match=r"call 2/0/4 is damaged; nothing was written"):
        back_up(path, target)

    assert target.read_bytes() == before


def test_a_restored_backup_is_the_store_and_the_old_one_is_kept(path: Path) -> None:
    target, wanted = path.with_name("backup"), values(path)
    back_up(path, target)
    add_one(path)

    kept = restore(path, target)

    assert values(path) == wanted
    assert kept == path.with_name("memory.db.replaced-1")
    assert len(values(kept, 4)) > len(wanted)
    assert stat.S_IMODE(path.stat().st_mode) == stat.S_IMODE(kept.stat().st_mode) == 0o600


def test_every_replaced_store_is_kept(path: Path) -> None:
    back_up(path, path.with_name("backup"))

    kept = [restore(path, path.with_name("backup")) for _ in range(3)]

    assert [each.name for each in kept if each] == [f"memory.db.replaced-{n}" for n in (1, 2, 3)]


def test_a_store_that_is_gone_is_restored(path: Path) -> None:
    wanted = values(path)
    path.rename(path.with_name("backup"))

    assert restore(path, path.with_name("backup")) is None

    assert values(path) == wanted


def test_the_log_of_a_store_that_was_killed_is_kept_and_not_taken_for_the_new_ones(
    path: Path, tmp_path: Path
) -> None:
    back_up(path, tmp_path / "backup")
    wanted = values(path)
    for end, content in add_one(path).items():
        path.with_name(path.name + end).write_bytes(content)

    kept = restore(path, tmp_path / "backup")

    assert kept is not None
    assert values(path) == wanted
    assert len(values(kept, 4)) > len(wanted)


@pytest.mark.parametrize("content", [b"no database " * 1000, b""])
def test_a_store_that_cannot_be_read_any_more_is_kept_as_it_is(path: Path, content: bytes) -> None:
    back_up(path, path.with_name("backup"))
    wanted = values(path)
    path.write_bytes(content)

    kept = restore(path, path.with_name("backup"))

    assert kept is not None
    assert kept.read_bytes() == content
    assert values(path) == wanted


@pytest.mark.parametrize(
    ("statement", "said"),
    [
        ("UPDATE output SET text = 'x' WHERE pid = 1", "output of process 1 is damaged"),
        (f"PRAGMA user_version = {len(STEPS) + 1}", "update llmos"),
        ("PRAGMA application_id = 7", "another program's"),
    ],
)
def test_a_file_that_is_no_sound_store_is_not_restored(
    path: Path, statement: str, said: str
) -> None:
    target = path.with_name("backup")
    back_up(path, target)
    edit(target, statement)
    before = path.read_bytes()

    with pytest.raises(E_STORAGE, match=said):
        restore(path, target)

    assert path.read_bytes() == before
    assert names(path.parent) - {"memory.db-wal", "memory.db-shm"} == {"memory.db", "backup"}


def test_a_file_with_nothing_in_it_replaces_no_store(path: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").touch()

    with pytest.raises(E_STORAGE, match="there is nothing in"):
        restore(path, tmp_path / "empty")

    assert len(values(path)) > 0


def test_what_is_no_plain_file_is_left_alone(path: Path, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")

    with pytest.raises(E_ARG, match="no plain file"):
        back_up(path, tmp_path / "pipe")

    assert (tmp_path / "pipe").is_fifo()


def test_what_cannot_be_a_backup_is_named(path: Path, tmp_path: Path) -> None:
    with pytest.raises(E_ARG, match="is a folder"):
        back_up(path, tmp_path)
    with pytest.raises(E_ARG, match="the store itself"):
        back_up(path, path)
    with pytest.raises(E_ARG, match="the store itself"):
        restore(path, tmp_path / "." / "memory.db")
    with pytest.raises(E_STORAGE, match=r"beside .*nowhere.*: No such file.*; fix:"):
        back_up(path, tmp_path / "nowhere" / "backup")
    with pytest.raises(E_STORAGE, match="there is no file"):
        restore(path, tmp_path / "nothing")


@pytest.mark.anyio
async def test_a_store_that_somebody_reads_is_not_replaced(path: Path) -> None:
    back_up(path, path.with_name("backup"))
    db = Database.open(path)
    await db.write(add_process)

    def hold(connection: Connection) -> None:
        processes.read(connection, 1)
        with pytest.raises(E_STORAGE, match="reads it"):
            restore(path, path.with_name("backup"))

    await db.read(hold)
    await db.aclose()


def test_a_backup_can_be_opened_where_nothing_may_be_written(path: Path) -> None:
    """It needs no log beside it, as a store in use does."""
    target = path.with_name("backup")
    back_up(path, target)

    with closing(sqlite3.connect(f"file:{target}?mode=ro&immutable=1", uri=True)) as connection:
        (mode,) = connection.execute("PRAGMA journal_mode").fetchone()

    assert mode == "delete"
