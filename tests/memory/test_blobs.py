"""Large bodies: kept once, found by their digest, gone with the last row that names them."""

import msgspec
import pytest

from llmos.memory import blobs
from llmos.memory.blobs import MAX_ROW_BODY_BYTES
from llmos.memory.db import Connection, Database
from llmos.memory.driver import driver_of
from llmos.memory.journal import (
    JournalRow,
    drop_rows,
    fill,
    find,
    finish_row,
    load,
    load_outline,
)
from llmos.memory.logs import read_calls
from llmos.syscalls.errors import E_STORAGE

from .test_journal import damage, insert, row

pytestmark = pytest.mark.anyio

LARGE = bytes(range(256)) * 65  # a little more than a row may hold
OTHER = LARGE[::-1]


def done(seq: int, result: bytes, pid: int = 1) -> JournalRow:
    return msgspec.structs.replace(row(seq, pid=pid), state="DONE", result=result, ended_at=9.0)


async def count_blobs(db: Database) -> int:
    count = "SELECT count(*) FROM blob"
    return int(await db.read(lambda c: c.exec_driver_sql(count).scalar_one()))


async def stored_bytes(db: Database) -> int:
    size = "SELECT sum(length(coalesce(result, error))) FROM journal"
    return int(await db.read(lambda c: c.exec_driver_sql(size).scalar()) or 0)


async def test_a_body_comes_back_by_every_way_whatever_its_size(db: Database) -> None:
    rows = [done(1, b"small"), done(2, LARGE[:MAX_ROW_BODY_BYTES]), done(3, LARGE), done(4, OTHER)]

    await insert(db, *rows)

    assert await load(db, 1) == rows
    assert [each async for piece in read_calls(db, 1) for each in piece] == rows
    assert [await find(db, 1, "0", each.seq) for each in rows] == rows
    assert await count_blobs(db) == 2
    assert await stored_bytes(db) == 5 + MAX_ROW_BODY_BYTES


async def test_an_outcome_that_comes_later_is_kept_apart_too(db: Database) -> None:
    await insert(db, row(1), row(2))
    await db.write(lambda c: finish_row(c, 1, "0", 1, "DONE", LARGE, None, 9))
    await db.write(lambda c: finish_row(c, 1, "0", 2, "FAILED", None, OTHER, 9))

    first, second = await load(db, 1)

    assert (first.result, first.error) == (LARGE, None)
    assert (second.result, second.error) == (None, OTHER)


async def test_equal_bodies_are_kept_once(db: Database) -> None:
    await insert(db, *(done(seq, LARGE, pid) for pid in (1, 2) for seq in range(5)))

    assert await count_blobs(db) == 1


async def test_an_outline_has_no_large_body_until_it_is_filled(db: Database) -> None:
    await insert(db, done(1, b"small"), done(2, LARGE))

    small, large = await load_outline(db, 1)

    assert small == done(1, b"small") == await fill(db, small)
    assert (large.result, large.blob) == (None, blobs.digest_body(LARGE))
    assert await fill(db, large) == done(2, LARGE)


async def test_a_row_of_an_outline_may_be_copied_to_another_process(db: Database) -> None:
    await insert(db, done(1, LARGE))
    (large,) = await load_outline(db, 1)

    await insert(db, msgspec.structs.replace(large, pid=2))

    assert await load(db, 2) == [done(1, LARGE, pid=2)]
    assert await count_blobs(db) == 1


async def test_a_body_goes_with_the_last_row_that_names_it(db: Database) -> None:
    await insert(db, done(1, LARGE), done(2, OTHER), done(1, LARGE, pid=2))

    assert await db.write(lambda c: drop_rows(c, 1)) == 2

    assert await count_blobs(db) == 1
    assert await load(db, 2) == [done(1, LARGE, pid=2)]


async def test_a_journal_goes_on_after_its_rows_were_dropped(db: Database) -> None:
    await insert(db, row(1), row(2))
    await db.write(lambda c: drop_rows(c, 1))
    await insert(db, row(3), row(4))

    assert await load(db, 1) == [row(3), row(4)]
    await damage(db, "DELETE FROM journal WHERE seq = 3")
    with pytest.raises(E_STORAGE, match="before call 1/0/4"):
        await load(db, 1)


async def test_nothing_that_is_named_is_removed(db: Database) -> None:
    await insert(db, done(1, LARGE))

    def remove(connection: Connection) -> int:
        driver = driver_of(connection)
        blobs.put(driver, OTHER)
        return blobs.remove_unused(driver)

    assert await db.write(remove) == 1
    assert await load(db, 1) == [done(1, LARGE)]


async def test_rows_are_checked_with_the_name_of_their_body(db: Database) -> None:
    await insert(db, done(1, LARGE), done(2, OTHER))
    await damage(db, "UPDATE journal SET blob = (SELECT blob FROM journal WHERE seq = 2)")

    with pytest.raises(E_STORAGE, match="call 1/0/1 is damaged"):
        await load_outline(db, 1)


async def test_a_body_of_another_type_is_damage(db: Database) -> None:
    await insert(db, done(1, LARGE))
    await damage(db, "UPDATE blob SET body = 7")

    with pytest.raises(E_STORAGE, match="body of the journal's call 1/0/1 is damaged"):
        await load(db, 1)
