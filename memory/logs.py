"""What a process wrote and called, a piece at a time: nobody has to hold all of it.

Each piece is one short read on a snapshot of its own. A reader that is slow, or that stops half
way, keeps nothing open.
"""

from collections.abc import AsyncIterator, Sequence
from functools import partial
from typing import Any

from sqlalchemy import Connection

from .checksum import checksum
from .db import Database
from .journal import COLUMNS, FIRST_HASH, NUM_INTENT, ROW_BYTES, JournalRow, to_row, verified

PIECE_CHARS = 1 << 18
PIECE_BYTES = 1 << 20
NEXT_TEXTS = (
    "SELECT offset_chars + num_chars AS end_chars, text FROM output"
    " WHERE pid = ? AND offset_chars >= ? ORDER BY offset_chars"
)
NEXT_CALLS = (
    f"SELECT {COLUMNS} FROM journal WHERE pid = ? AND id > coalesce("
    "(SELECT id FROM journal WHERE pid = ? AND strand = ? AND seq = ?), 0) ORDER BY id"
)


async def read_output(db: Database, pid: int) -> AsyncIterator[str]:
    """All that a process has written, in pieces of PIECE_CHARS characters and one text more."""
    offset_chars = 0
    while True:
        texts, offset_chars = await db.read(partial(_read_texts, pid, offset_chars))
        if not texts:
            return
        yield texts


async def read_calls(db: Database, pid: int) -> AsyncIterator[list[JournalRow]]:
    """A process's calls in the order in which they began, in pieces of about PIECE_BYTES.

    E_STORAGE names the first row that is damaged or breaks the chain.
    """
    last: tuple[str, int] = ("", -1)
    prev_hash = FIRST_HASH
    while rows := await db.read(partial(_read_rows, pid, last)):
        yield [to_row(row) for row in verified(rows, prev_hash)]
        last = (rows[-1].strand, rows[-1].seq)
        prev_hash = checksum(*rows[-1][:NUM_INTENT], rows[-1].prev_hash)


def _read_texts(pid: int, offset_chars: int, connection: Connection) -> tuple[str, int]:
    """The texts from an offset on, and the offset behind them."""
    texts: list[str] = []
    num_chars = 0
    for row in connection.exec_driver_sql(NEXT_TEXTS, (pid, offset_chars)):
        texts.append(row.text)
        num_chars += len(row.text)
        offset_chars = row.end_chars
        if num_chars >= PIECE_CHARS:
            break
    return "".join(texts), offset_chars


def _read_rows(pid: int, last: tuple[str, int], connection: Connection) -> Sequence[Any]:
    """The rows behind a call."""
    rows: list[Any] = []
    size_bytes = 0
    for row in connection.exec_driver_sql(NEXT_CALLS, (pid, pid, *last)):
        rows.append(row)
        size_bytes += ROW_BYTES + len(row.result or b"") + len(row.error or b"")
        if size_bytes >= PIECE_BYTES:
            break
    return rows
