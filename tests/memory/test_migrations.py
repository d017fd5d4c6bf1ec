"""The steps from an empty file to this version's schema."""

import sqlite3
from pathlib import Path

import msgspec
import pytest
from sqlalchemy import create_engine, inspect

from llmos.memory.checksum import checksum
from llmos.memory.contexts import create, read
from llmos.memory.db import Database
from llmos.memory.journal import read_output
from llmos.memory.migrations import APPLICATION_ID
from llmos.memory.schema import metadata
from llmos.syscalls.errors import E_STORAGE
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


OLD_CONTEXTS = """
CREATE TABLE context(
  id INTEGER PRIMARY KEY AUTOINCREMENT NOT NULL, pid INTEGER NOT NULL, created_at FLOAT NOT NULL);
CREATE TABLE message(
  context_id INTEGER NOT NULL, pos INTEGER NOT NULL, role TEXT NOT NULL, checksum BLOB NOT NULL,
  body BLOB NOT NULL, PRIMARY KEY (context_id, pos),
  FOREIGN KEY(context_id) REFERENCES context (id));
INSERT INTO context VALUES (1, 7, 0.0), (2, 8, 0.0), (3, 7, 0.0);
"""


async def make_old_store(path: Path, *messages: tuple[int, int, str]) -> None:
    """A store of step 3, whose contexts were numbered over all processes."""
    await Database.open(path).aclose()
    with sqlite3.connect(path) as old:
        old.executescript("DROP TABLE message; DROP TABLE context;" + OLD_CONTEXTS)
        for number, pos, text in messages:
            body = msgspec.msgpack.encode(Message("user", text))
            row = (number, pos, "user", checksum(number, pos, body), body)
            old.execute("INSERT INTO message VALUES (?, ?, ?, ?, ?)", row)
        for column in ("strand", "seq"):
            old.execute(f"ALTER TABLE output DROP COLUMN {column}")
        old.execute("INSERT INTO output(pid, offset_chars, num_chars, text) VALUES (7, 0, 2, 'ok')")
        old.execute("PRAGMA user_version = 3")
    old.close()


async def test_contexts_of_an_old_store_keep_their_numbers(tmp_path: Path) -> None:
    path = tmp_path / "memory.db"
    await make_old_store(path, (1, 0, "a"), (1, 1, "b"), (2, 0, "c"), (3, 0, "d"))

    db = Database.open(path)

    places = [(7, 1), (8, 2), (7, 3)]
    found = await db.read(lambda c: [read(c, *place) for place in places])
    texts = [[message.content for message in messages] for messages in found]
    assert texts == [["a", "b"], ["c"], ["d"]]
    assert await db.write(lambda c: [create(c, 7, ()), create(c, 8, ())]) == [4, 3]
    assert await read_output(db, 7) == "ok"
    await db.aclose()


async def test_a_message_that_was_damaged_before_a_step_is_so_after_it(tmp_path: Path) -> None:
    path = tmp_path / "memory.db"
    await make_old_store(path, (1, 0, "a"), (1, 1, "b"))
    with sqlite3.connect(path) as old:
        old.execute("UPDATE message SET body = x'80' WHERE pos = 1")
    old.close()

    db = Database.open(path)

    with pytest.raises(E_STORAGE, match="message 1 of context 1 of process 7 is damaged"):
        await db.read(lambda c: read(c, 7, 1))
    await db.aclose()
