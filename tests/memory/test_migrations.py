"""The steps from an empty file to this version's schema."""

import sqlite3
from pathlib import Path

import anyio
import pytest
from sqlalchemy import create_engine, inspect

from llmos.memory.contexts import create, read
from llmos.memory.db import Database
from llmos.memory.journal import read_output
from llmos.memory.migrations import APPLICATION_ID
from llmos.memory.schema import metadata
from llmos.syscalls.errors import E_STORAGE

from .old_stores import make_old_store

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


async def test_a_file_that_lost_all_it_held_is_no_new_store(tmp_path: Path) -> None:
    path = tmp_path / "memory.db"
    path.touch()

    with pytest.raises(E_STORAGE, match=r"it is empty.*; fix: llmos db restore FILE"):
        Database.open(path)


def test_a_new_file_is_marked_as_ours(tmp_path: Path) -> None:
    path = tmp_path / "memory.db"

    anyio.run(Database.open(path).aclose)

    assert path.read_bytes()[68:72] == APPLICATION_ID.to_bytes(4, "big")
    assert [each.name for each in tmp_path.iterdir()] == ["memory.db"]


async def test_opening_again_changes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "memory.db"
    await Database.open(path).aclose()
    before = path.read_bytes()

    await Database.open(path).aclose()

    assert path.read_bytes() == before


async def test_contexts_of_an_old_store_keep_their_numbers(tmp_path: Path) -> None:
    path = tmp_path / "memory.db"
    make_old_store(path)

    db = Database.open(path)

    found = await db.read(lambda c: [read(c, 1, 1), read(c, 2, 2)])
    assert [messages[0].content for messages in found] == ["hi", "hi"]
    assert await db.write(lambda c: [create(c, 1, ()), create(c, 2, ())]) == [2, 3]
    assert await read_output(db, 2) == "héllo world"
    await db.aclose()
