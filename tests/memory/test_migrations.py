"""The steps from an empty file to this version's schema."""

import sqlite3
from functools import partial
from pathlib import Path

import pytest
from sqlalchemy import create_engine, inspect

from llmos.memory.contexts import create, read
from llmos.memory.db import Database
from llmos.memory.journal import read_output
from llmos.memory.migrations import APPLICATION_ID
from llmos.memory.schema import metadata
from llmos.syscalls.types import Message

pytestmark = pytest.mark.anyio


async def test_the_steps_make_the_tables_of_the_metadata(db: Database) -> None:
    inspector = inspect(create_engine(f"sqlite:///{db.path}"))

    for table in metadata.sorted_tables:
        made = [column["name"] for column in inspector.get_columns(table.name)]
        assert made == [column.name for column in table.columns]
    inspector.engine.dispose()


async def test_a_file_that_stopped_after_the_first_step_is_brought_on(tmp_path: Path) -> None:
    path = tmp_path / "memory.db"
    await Database.open(path).aclose()
    with sqlite3.connect(path) as old:
        old.execute("DROP TABLE item_fts")
        old.execute("PRAGMA user_version = 1")
    old.close()

    db = Database.open(path)

    assert await db.read(lambda c: c.exec_driver_sql("SELECT count(*) FROM item_fts").scalar()) == 0
    await db.aclose()


async def test_an_empty_file_becomes_a_store(tmp_path: Path) -> None:
    path = tmp_path / "memory.db"
    path.touch()

    await Database.open(path).aclose()

    assert path.read_bytes()[68:72] == APPLICATION_ID.to_bytes(4, "big")


async def test_opening_again_changes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "memory.db"
    await Database.open(path).aclose()
    before = path.read_bytes()

    await Database.open(path).aclose()

    assert path.read_bytes() == before


async def make_old_store(path: Path, *pids: int) -> None:
    """A store of step 3, with a context of each process, numbered over all of them."""
    db = Database.open(path)
    for pid in pids:
        await db.write(partial(create, pid=pid, messages=(Message("user", f"of {pid}"),)))
    await db.aclose()
    with sqlite3.connect(path) as old:
        old.execute("DROP INDEX context_number")
        for table, column in (("context", "number"), ("output", "strand"), ("output", "seq")):
            old.execute(f"ALTER TABLE {table} DROP COLUMN {column}")
        old.execute("INSERT INTO output(pid, offset_chars, num_chars, text) VALUES (7, 0, 2, 'ok')")
        old.execute("PRAGMA user_version = 3")
    old.close()


async def test_contexts_of_an_old_store_keep_their_numbers(tmp_path: Path) -> None:
    path = tmp_path / "memory.db"
    await make_old_store(path, 7, 8, 7)

    db = Database.open(path)

    found = await db.read(lambda c: [read(c, *place) for place in ((7, 1), (8, 2), (7, 3))])
    assert [messages[0].content for messages in found] == ["of 7", "of 8", "of 7"]
    assert await db.write(lambda c: [create(c, 7, ()), create(c, 8, ())]) == [4, 3]
    assert await read_output(db, 7) == "ok"
    await db.aclose()
