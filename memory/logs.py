"""What a process wrote and called, a piece at a time: nobody has to hold all of it.

Each piece is one short read on a snapshot of its own. A reader that is slow, or that stops half
way, keeps nothing open.
"""

from collections.abc import AsyncIterator
from functools import partial
from typing import NamedTuple

from sqlalchemy import Connection

from . import extent
from .db import Database
from .driver import driver_of
from .journal import COLUMNS, JournalRow, fill_row, linked, require_end, row_bytes, walk_output

PIECE_CHARS = 1 << 18
PIECE_BYTES = 1 << 20
NEXT_CALLS = (
    f"SELECT {COLUMNS} FROM journal WHERE pid = ? AND id > coalesce("
    "(SELECT id FROM journal WHERE pid = ? AND strand = ? AND seq = ?), 0) ORDER BY id"
)


class Place(NamedTuple):
    """How far a reader of calls is: the last one that it has read, how many, and the hashes."""

    first_hash: bytes
    last_hash: bytes
    strand: str = ""
    seq: int = -1
    num_rows: int = 0


async def read_output(db: Database, pid: int) -> AsyncIterator[str]:
    """All that a process has written, in pieces of PIECE_CHARS characters and one text more.

    E_STORAGE names the first character that is damaged or missing.
    """
    offset_chars = 0
    while texts := await db.read(partial(_read_texts, pid, offset_chars)):
        yield texts
        offset_chars += len(texts)


async def read_calls(db: Database, pid: int) -> AsyncIterator[list[JournalRow]]:
    """A process's calls in the order in which they began, in pieces of about PIECE_BYTES.

    E_STORAGE names the first row that is damaged, breaks the chain or has lost its body. Of a
    journal whose rows are dropped meanwhile the new ones come behind those that were read.
    """
    place = None
    while True:
        rows, place = await db.read(partial(_read_rows, pid, place))
        if not rows:
            return
        yield rows


def _read_texts(pid: int, offset_chars: int, connection: Connection) -> str:
    """The texts from an offset on."""
    texts: list[str] = []
    num_chars = 0
    for text in walk_output(connection, pid, offset_chars):
        texts.append(text)
        num_chars += len(text)
        if num_chars >= PIECE_CHARS:
            break
    return "".join(texts)


def _read_rows(
    pid: int, place: Place | None, connection: Connection
) -> tuple[list[JournalRow], Place]:
    """The rows behind a call; when there is none, it must be the last one that there should be."""
    driver = driver_of(connection)
    reach = extent.read(driver, pid)
    if place is None or place.first_hash != reach.first_hash:
        place = Place(reach.first_hash, reach.first_hash)
    rows: list[JournalRow] = []
    size_bytes = 0
    last_hash = place.last_hash
    found = driver.execute(NEXT_CALLS, (pid, pid, place.strand, place.seq))
    for row in linked(found, pid, last_hash):
        rows.append(fill_row(driver, row.to_row()))
        last_hash = row.hash()
        size_bytes += row_bytes(rows[-1])
        if size_bytes >= PIECE_BYTES:
            break
    if not rows:
        require_end(reach, pid, place.num_rows, last_hash)
        return rows, place
    last, num_rows = rows[-1], place.num_rows + len(rows)
    return rows, Place(place.first_hash, last_hash, last.strand, last.seq, num_rows)
