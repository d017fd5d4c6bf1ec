"""A process's log a piece at a time: the same as all of it at once."""

from functools import partial

import msgspec
import pytest
from sqlalchemy import Connection

from llmos.memory.db import Database
from llmos.memory.journal import append_output, drop_rows, insert_row, load
from llmos.memory.journal import read_output as read_whole_output
from llmos.memory.logs import PIECE_BYTES, PIECE_CHARS, read_calls, read_output
from llmos.syscalls.errors import E_STORAGE

from .test_journal import row

pytestmark = pytest.mark.anyio


async def test_output_comes_in_pieces_of_bounded_size(db: Database) -> None:
    texts = ["ä" * (PIECE_CHARS // 3 + number) for number in range(10)]
    for text in texts:
        await db.write(partial(append_output, pid=1, text=text))

    pieces = [piece async for piece in read_output(db, 1)]

    assert "".join(pieces) == "".join(texts) == await read_whole_output(db, 1)
    assert len(pieces) > 2
    assert max(map(len, pieces)) < 2 * PIECE_CHARS


async def test_a_process_that_wrote_nothing_has_no_pieces(db: Database) -> None:
    assert [piece async for piece in read_output(db, 7)] == []
    assert [rows async for rows in read_calls(db, 7)] == []


async def test_calls_come_in_pieces_and_are_all_there(db: Database) -> None:
    await fill(db)

    pieces = [rows async for rows in read_calls(db, 1)]

    assert [row for rows in pieces for row in rows] == await load(db, 1)
    assert len(pieces) == 4


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        ("UPDATE journal SET result = X'00' WHERE seq = 9", "1/0/9 is damaged"),
        ("DELETE FROM journal WHERE seq = 8", "chain breaks before call 1/0/9"),
    ],
)
async def test_damage_behind_the_first_piece_is_named(db: Database, damage: str, said: str) -> None:
    await fill(db)
    await db.write(lambda connection: connection.exec_driver_sql(damage))

    with pytest.raises(E_STORAGE, match=said):
        [rows async for rows in read_calls(db, 1)]


async def test_rows_that_are_dropped_while_they_are_read_break_no_chain(db: Database) -> None:
    await fill(db)
    pieces = read_calls(db, 1)
    read = await anext(pieces)
    await db.write(lambda connection: drop_rows(connection, 1))
    await db.write(lambda connection: insert_row(connection, row(100)))

    rest = [each.seq async for rows in pieces for each in rows]

    assert [each.seq for each in read] == [0, 1, 2]
    assert rest == [100]


async def fill(db: Database) -> None:
    """Twelve calls of a process, three to a piece."""

    big = b"x" * (PIECE_BYTES // 3)

    def insert(connection: Connection) -> None:
        for seq in range(12):
            insert_row(connection, msgspec.structs.replace(row(seq), state="DONE", result=big))

    await db.write(insert)
