"""The journal: outcomes, transactions shared with effects, damage found, output."""

import msgspec
import pytest

from llmos.memory.db import Connection, Database
from llmos.memory.journal import (
    CHECKPOINT_STRAND,
    JournalRow,
    append_output,
    begin_anew,
    finish_row,
    insert_row,
    load,
    read_output,
)
from llmos.syscalls.errors import E_PERM, E_STORAGE

pytestmark = pytest.mark.anyio


def row(seq: int, *, pid: int = 1, strand: str = "0") -> JournalRow:
    return JournalRow(
        pid=pid,
        strand=strand,
        seq=seq,
        name="tool",
        effect="once",
        digest=bytes([seq]) * 16,
        state="INTENT",
        result=None,
        error=None,
        label="user",
        code_hash="1.0.0",
        started_at=seq,
        ended_at=None,
    )


async def insert(db: Database, *rows: JournalRow) -> None:
    def operation(connection: Connection) -> None:
        for each in rows:
            insert_row(connection, each)

    await db.write(operation)


async def damage(db: Database, sql: str) -> None:
    await db.write(lambda connection: connection.exec_driver_sql(sql).rowcount)


async def test_calls_come_back_in_the_order_in_which_they_began(db: Database) -> None:
    rows = [row(1), row(1, strand="0.1"), row(2), row(2, strand="0.1")]
    await insert(db, *rows[:2], row(1, pid=2), *rows[2:])

    assert await load(db, 1) == rows
    assert await load(db, 3) == []


async def test_an_outcome_is_kept_byte_for_byte(db: Database) -> None:
    await insert(db, row(1), row(2))
    await db.write(lambda c: finish_row(c, 1, "0", 1, "DONE", b"\x00\xff", None, 9))

    first, second = await load(db, 1)

    assert first == msgspec.structs.replace(row(1), state="DONE", result=b"\x00\xff", ended_at=9.0)
    assert second == row(2)


async def test_a_row_may_be_inserted_finished(db: Database) -> None:
    done = msgspec.structs.replace(row(1), state="FAILED", error=b"e", ended_at=2.0)

    await insert(db, done, row(2))

    assert await load(db, 1) == [done, row(2)]


async def test_a_call_has_one_row_and_one_outcome(db: Database) -> None:
    await insert(db, row(1))
    await db.write(lambda c: finish_row(c, 1, "0", 1, "DONE", b"r", None, 9))

    with pytest.raises(E_STORAGE, match="UNIQUE"):
        await insert(db, row(1))
    with pytest.raises(E_STORAGE, match="1/0/1 is already DONE"):
        await db.write(lambda c: finish_row(c, 1, "0", 1, "FAILED", None, b"e", 9))
    with pytest.raises(E_STORAGE, match="no call 1/0/2"):
        await db.write(lambda c: finish_row(c, 1, "0", 2, "DONE", b"r", None, 9))


async def test_a_call_in_doubt_can_still_be_decided(db: Database) -> None:
    await insert(db, row(1))
    await db.write(lambda c: finish_row(c, 1, "0", 1, "IN_DOUBT", None, b"e", 8))
    await db.write(lambda c: finish_row(c, 1, "0", 1, "DONE", b"r", None, 9))

    assert [found.state for found in await load(db, 1)] == ["DONE"]


async def test_an_effect_and_its_outcome_are_one_transaction(db: Database) -> None:
    await insert(db, row(1))

    def refused(connection: Connection) -> None:
        append_output(connection, 1, "said")
        finish_row(connection, 1, "0", 1, "DONE", b"", None, 9)
        raise E_PERM("no")

    with pytest.raises(E_PERM):
        await db.write(refused)

    assert await read_output(db, 1) == ""
    assert [found.state for found in await load(db, 1)] == ["INTENT"]


@pytest.mark.parametrize(
    "change",
    ["result = x'00'", "name = 'other'", "state = 'DONE'", "seq = 20", "ended_at = 1.0"],
)
async def test_a_changed_row_is_named(db: Database, change: str) -> None:
    await insert(db, row(1), row(2), row(3))
    await damage(db, f"UPDATE journal SET {change} WHERE seq = 2")

    with pytest.raises(E_STORAGE, match=r"call 1/0/20? is damaged"):
        await load(db, 1)


async def test_a_row_that_was_taken_out_breaks_the_chain(db: Database) -> None:
    await insert(db, row(1), row(2), row(3))
    await damage(db, "DELETE FROM journal WHERE seq = 2")

    with pytest.raises(E_STORAGE, match="chain breaks before call 1/0/3"):
        await load(db, 1)


async def test_a_row_moved_to_another_process_breaks_the_chain(db: Database) -> None:
    await insert(db, row(1), row(2), row(1, pid=2), row(2, pid=2))
    await damage(db, "UPDATE journal SET pid = 3 WHERE pid = 2 AND seq = 2")

    with pytest.raises(E_STORAGE, match="3/0/2"):
        await load(db, 3)


async def test_a_damaged_call_cannot_be_finished_into_a_sound_one(db: Database) -> None:
    await insert(db, row(1))
    await damage(db, "UPDATE journal SET name = 'other'")

    with pytest.raises(E_STORAGE, match="damaged"):
        await db.write(lambda c: finish_row(c, 1, "0", 1, "DONE", b"r", None, 9))


async def begin(db: Database, pid: int = 1) -> None:
    await db.write(lambda connection: begin_anew(connection, row(0, pid=pid)))


async def test_a_journal_that_begins_anew_holds_the_row_that_says_so(db: Database) -> None:
    await insert(db, row(1), row(1, strand="0.1"), row(1, pid=2))

    await begin(db)

    assert await load(db, 1) == [row(0, strand=CHECKPOINT_STRAND)]
    assert await load(db, 2) == [row(1, pid=2)]


async def test_it_goes_on_with_the_chain_each_time(db: Database) -> None:
    await insert(db, row(1), row(2))
    for _ in range(2):
        await begin(db)
        await insert(db, row(1))

    first, second = await load(db, 1)
    query = "SELECT prev_hash FROM journal"
    hashes = await db.read(lambda c: list(c.exec_driver_sql(query).scalars()))

    assert (first.strand, first.seq, second.seq) == (CHECKPOINT_STRAND, 1, 1)
    assert b"" not in hashes


async def test_a_row_that_is_missing_behind_a_checkpoint_breaks_the_chain(db: Database) -> None:
    await begin(db)
    await insert(db, row(1), row(2), row(3))
    await damage(db, "DELETE FROM journal WHERE seq = 2")

    with pytest.raises(E_STORAGE, match="chain breaks before call 1/0/3"):
        await load(db, 1)


async def test_the_row_that_a_journal_begins_with_is_missed(db: Database) -> None:
    await insert(db, row(1))
    await begin(db)
    await insert(db, row(2))
    await damage(db, f"DELETE FROM journal WHERE strand = '{CHECKPOINT_STRAND}'")

    with pytest.raises(E_STORAGE, match="chain breaks before call 1/0/2"):
        await load(db, 1)


async def test_a_journal_that_begins_anew_is_undone_with_its_transaction(db: Database) -> None:
    await insert(db, row(1))

    def refused(connection: Connection) -> None:
        begin_anew(connection, row(0))
        raise E_PERM("no")

    with pytest.raises(E_PERM):
        await db.write(refused)

    assert await load(db, 1) == [row(1)]


async def test_output_comes_back_whole_with_offsets_in_characters(db: Database) -> None:
    parts = ["héllo\n", "", "nul \0 and 👩‍👩‍👧", "end"]

    offsets = await db.write(lambda c: [append_output(c, 1, part) for part in parts])

    assert await read_output(db, 1) == "".join(parts)
    assert offsets == [0, 6, 6, 6 + len(parts[2])]
    assert await read_output(db, 2) == ""
