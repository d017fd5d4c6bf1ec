"""A store that somebody edited: what was edited is named, and nobody else notices."""

import re
from pathlib import Path

import anyio
import pytest

from llmos.memory import processes
from llmos.memory.db import Database
from llmos.memory.migrations import STEPS
from llmos.memory.processes import DAMAGED, update
from llmos.syscalls.errors import E_STORAGE

from .example import edit, make_example, read_all, readers, readers_of

pytestmark = pytest.mark.anyio

EDITS = {
    "UPDATE journal SET result = X'00' WHERE pid = 2 AND seq = 4": "call 2/0/4 is damaged",
    "UPDATE journal SET state = 'DONE' WHERE pid = 2 AND seq = 8": "call 2/0/8 is damaged",
    "UPDATE journal SET name = 'other' WHERE pid = 2 AND seq = 0": "call 2/0/0 is damaged",
    "DELETE FROM journal WHERE pid = 2 AND seq = 0": "before call 2/0/1: a row is missing",
    "DELETE FROM journal WHERE pid = 2 AND seq = 5": "before call 2/0/6: a row is missing",
    "DELETE FROM journal WHERE pid = 2 AND seq = 8": "process 2 has 8 sound calls .* 9",
    "DELETE FROM journal WHERE pid = 2": "process 2 has 0 sound calls .* 9",
    "INSERT INTO journal SELECT 999, 2, strand, 9, name, effect, digest, label, code_hash,"
    " started_at, state, ended_at, prev_hash, checksum, result, error, blob FROM journal"
    " WHERE pid = 1 AND seq = 1": "call 2/0/9 is damaged",
    "UPDATE journal SET pid = 2, seq = 20 WHERE id = 1": "call 2/0/20 is damaged",
    "UPDATE blob SET body = X'00' WHERE digest ="
    " (SELECT blob FROM journal WHERE pid = 2 AND blob IS NOT NULL)": "call 2/0/3 is damaged",
    "DELETE FROM blob WHERE digest ="
    " (SELECT blob FROM journal WHERE pid = 2 AND blob IS NOT NULL)": "body .* 2/0/3 is missing",
    "UPDATE journal SET blob = X'00' WHERE pid = 2 AND seq = 3": "call 2/0/3 is damaged",
    "UPDATE extent SET num_rows = 8 WHERE pid = 2": "how far process 2 came is damaged",
    "DELETE FROM extent WHERE pid = 2": "process 2 has 9 sound calls",
    "UPDATE output SET text = 'other' WHERE pid = 2 AND offset_chars = 0": "2 .* character 0",
    "DELETE FROM output WHERE pid = 2 AND offset_chars = 0": "2 .* character 0",
    "DELETE FROM output WHERE pid = 2 AND offset_chars ="
    " (SELECT max(offset_chars) FROM output)": "output of process 2 is damaged at character",
    "UPDATE context SET num_messages = 7 WHERE pid = 2": "context 1 of process 2 is damaged",
    "UPDATE context SET number = 7 WHERE pid = 2": "context 7 of process 2 is damaged",
    "DELETE FROM context WHERE id = 2": "a context of process 2 is missing",
    "DELETE FROM message WHERE context_id = 2": "context 1 of process 2 has 0 messages",
    "UPDATE mail SET text = 'other' WHERE pid = 2": "message 2 to process 2 is damaged",
    "UPDATE mail SET sender = 7 WHERE pid = 2": "message 2 to process 2 is damaged",
    "UPDATE process SET spec = X'00' WHERE pid = 2": "process 2 is damaged",
    "UPDATE process SET ended_at = 5 WHERE pid = 2": "process 2 is damaged",
    "DELETE FROM process WHERE pid = 2": "process 2 is missing",
}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    anyio.run(make_example, tmp_path / "memory.db")
    return tmp_path / "memory.db"


async def errors_of(db: Database, pid: int) -> list[str]:
    """What the readers of one process's things say."""
    said = []
    for read in readers_of(pid).values():
        try:
            await read(db)
        except E_STORAGE as error:
            said.append(error.message)
    return said


@pytest.mark.parametrize(("statement", "said"), EDITS.items())
async def test_an_edit_is_named_and_concerns_its_process_alone(
    path: Path, statement: str, said: str
) -> None:
    first = Database.open(path)
    before = await read_all(first)
    await first.aclose()
    edit(path, statement)

    db = Database.open(path)
    errors = await errors_of(db, 2)
    of_three = {name: await read(db) for name, read in readers_of(3).items()}
    listed = await processes.list(db)
    await db.aclose()

    assert [error for error in errors if re.search(said, error)]
    assert of_three == {name: before[name] for name in of_three}
    assert [record.pid for record in listed] == [1, 2, 3]
    assert {record.state for record in listed} <= {"READY", DAMAGED}


async def test_the_readers_find_nothing_in_a_store_that_nobody_edited(path: Path) -> None:
    """The control."""
    db = Database.open(path)

    assert await errors_of(db, 2) == []
    assert len(await read_all(db)) == len(readers(3))
    await db.aclose()


async def test_a_process_whose_record_is_damaged_is_listed_as_that(path: Path) -> None:
    edit(path, "UPDATE process SET app = CAST(X'ff' AS TEXT) WHERE pid = 2")
    db = Database.open(path)

    listed = await processes.list(db)

    assert [(record.pid, record.state) for record in listed] == [
        (1, "READY"),
        (2, DAMAGED),
        (3, "READY"),
    ]
    await db.aclose()


async def test_a_damaged_process_cannot_be_changed_into_a_sound_one(path: Path) -> None:
    edit(path, "UPDATE process SET model = 'other' WHERE pid = 2")
    db = Database.open(path)

    with pytest.raises(E_STORAGE, match="process 2 is damaged"):
        await update(db, 2, state="ZOMBIE")

    await update(db, 3, state="ZOMBIE")
    await db.aclose()


async def test_a_note_in_somebody_elses_space_is_not_served(path: Path) -> None:
    edit(path, "UPDATE item SET space_id = 3 - space_id")
    db = Database.open(path)

    with pytest.raises(E_STORAGE, match=r"note .* is damaged"):
        await readers(3)["notes chat"](db)
    await db.aclose()


@pytest.mark.parametrize(
    ("version", "said"), [(len(STEPS) + 1, "update llmos"), (-1, "which is damage")]
)
async def test_a_store_of_another_version_is_refused(path: Path, version: int, said: str) -> None:
    edit(path, f"PRAGMA user_version = {version}")

    with pytest.raises(E_STORAGE, match=said):
        Database.open(path)
