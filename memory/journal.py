"""The journal: one row per syscall of a process, and the text that the process has written.

A row has an immutable part, written when the call begins, and an outcome. Each row holds the hash
of the immutable part of the row inserted before it in the same process (a chain: a row that was
taken out, put in or rewritten breaks it), and a checksum of all of itself. The process's extent
says where the chain begins and ends. `load` proves all of it. An outcome that is too large for a
row lies in `blobs`, and the row has its digest. A checkpoint takes all rows out and leaves one that
goes on from the last hash.

The functions that take a connection run inside `Database.write`, so that an effect and its DONE
row can share one transaction.
"""

import sqlite3
from collections.abc import Iterable, Iterator
from functools import partial
from typing import Any, Literal, NamedTuple

import msgspec
from msgspec.structs import replace
from sqlalchemy import Connection

from llmos.syscalls.errors import E_STORAGE

from . import blobs, extent
from .checksum import checksum, damage
from .db import Database
from .driver import driver_of
from .extent import NOTHING, Extent

JournalState = Literal["INTENT", "DONE", "FAILED", "IN_DOUBT", "CANCELLED"]
UNFINISHED = ("INTENT", "IN_DOUBT")

INTENT_COLUMNS = "pid, strand, seq, name, effect, digest, label, code_hash, started_at"
OUTCOME_COLUMNS = "state, result, error, ended_at"
COLUMNS = f"{INTENT_COLUMNS}, {OUTCOME_COLUMNS}, prev_hash, checksum, blob"
NUM_INTENT = len(INTENT_COLUMNS.split(", "))
INSERT = f"INSERT INTO journal({COLUMNS}) VALUES ({', '.join('?' * len(COLUMNS.split(', ')))})"
FIND = f"SELECT {COLUMNS} FROM journal WHERE pid = ? AND strand = ? AND seq = ?"
FIND_ALL = f"SELECT {COLUMNS} FROM journal WHERE pid = ? ORDER BY id"
FIND_ANY = "SELECT 1 FROM journal WHERE pid = ? LIMIT 1"
FINISH = (
    "UPDATE journal SET state = ?, result = ?, error = ?, ended_at = ?, checksum = ?, blob = ?"
    " WHERE pid = ? AND strand = ? AND seq = ?"
)
ADD_TEXT = (
    "INSERT INTO output(pid, offset_chars, num_chars, text, strand, seq, checksum)"
    " VALUES (?, ?, ?, ?, ?, ?, ?)"
)
FIND_TEXTS = (
    "SELECT offset_chars, num_chars, text, strand, seq, checksum FROM output"
    " WHERE pid = ? AND offset_chars >= ? ORDER BY offset_chars"
)
FIND_BODY_SIZES = (
    "SELECT digest, length(body) FROM blob WHERE digest IN (SELECT blob FROM journal WHERE pid = ?)"
)
CHECKPOINT_STRAND = "-1"  # no app can name it
ROW_BYTES = 200  # what a row weighs beside its result and error


class JournalRow(msgspec.Struct, frozen=True):
    """One syscall of a process. `digest` is of its arguments; times are Unix seconds.

    `blob` names the body of the outcome while that is not here (see `load_outline`), `blob_bytes`
    is its size.
    """

    pid: int
    strand: str
    seq: int
    name: str
    effect: str
    digest: bytes
    state: JournalState
    result: bytes | None
    error: bytes | None
    label: str
    code_hash: str
    started_at: float
    ended_at: float | None
    blob: bytes | None = None
    blob_bytes: int = 0


class Written(NamedTuple):
    """A text that a process has written, and the call that did, as far as it is known."""

    text: str
    strand: str | None
    seq: int | None


class StoredRow(NamedTuple):
    """A row as it lies in the table: COLUMNS."""

    pid: int
    strand: str
    seq: int
    name: str
    effect: str
    digest: bytes
    label: str
    code_hash: str
    started_at: float
    state: JournalState
    result: bytes | None
    error: bytes | None
    ended_at: float | None
    prev_hash: bytes
    checksum: bytes
    blob: bytes | None

    @property
    def where(self) -> str:
        """The call's name in an error."""
        return f"call {self.pid}/{self.strand}/{self.seq}"

    def hash(self) -> bytes:
        """What the row behind it has as `prev_hash`."""
        return checksum(*self[:NUM_INTENT], self.prev_hash)

    def require_sound(self) -> None:
        """E_STORAGE naming the row unless its checksum holds."""
        if prove(self[:-2], self.blob) != self.checksum:
            raise damage(f"the journal's {self.where} is damaged")

    def to_row(self) -> JournalRow:
        """The row as the kernel sees it, without a body that is kept apart."""
        return JournalRow(
            pid=self.pid,
            strand=self.strand,
            seq=self.seq,
            name=self.name,
            effect=self.effect,
            digest=self.digest,
            state=self.state,
            result=self.result,
            error=self.error,
            label=self.label,
            code_hash=self.code_hash,
            started_at=self.started_at,
            ended_at=self.ended_at,
            blob=self.blob,
        )


def prove(fields: tuple[str | bytes | int | float | None, ...], blob: bytes | None) -> bytes:
    """The checksum of a row. One without a blob has the checksum it had before there were any."""
    return checksum(*fields) if blob is None else checksum(*fields, blob)


def insert_row(connection: Connection, row: JournalRow) -> None:
    """Add a row, in whatever state; E_STORAGE if its (pid, strand, seq) is taken.

    A row of `load_outline` may be added under another pid: it names the same body.
    """
    driver = driver_of(connection)
    reach = extent.read(driver, row.pid)
    if reach == NOTHING and driver.execute(FIND_ANY, (row.pid,)).fetchone():
        raise damage(f"the record of how far process {row.pid} came is missing")
    intent = (
        row.pid,
        row.strand,
        row.seq,
        row.name,
        row.effect,
        row.digest,
        row.label,
        row.code_hash,
        float(row.started_at),
    )
    result, error, blob = row.result, row.error, row.blob
    if blob is None:
        result, error, blob = keep_apart(driver, row.state, result, error)
    fields = (*intent, row.state, result, error, to_float(row.ended_at), reach.last_hash)
    driver.execute(INSERT, (*fields, prove(fields, blob), blob))
    num_rows, first_hash, last_hash, num_chars, num_contexts = reach
    last_hash = checksum(*intent, last_hash)
    reach = Extent(num_rows + 1, first_hash, last_hash, num_chars, num_contexts)
    extent.keep(driver, row.pid, reach)


def finish_row(
    connection: Connection,
    pid: int,
    strand: str,
    seq: int,
    state: JournalState,
    result: bytes | None,
    error: bytes | None,
    ended_at: float,
) -> None:
    """Give a call its outcome; E_STORAGE if there is no such call or it has an outcome."""
    driver = driver_of(connection)
    found = driver.execute(FIND, (pid, strand, seq)).fetchone()
    if found is None:
        raise E_STORAGE(f"the journal has no call {pid}/{strand}/{seq}")
    row = StoredRow._make(found)
    row.require_sound()
    if row.state not in UNFINISHED:
        raise E_STORAGE(f"the journal's {row.where} is already {row.state}")
    result, error, blob = keep_apart(driver, state, result, error)
    outcome = (state, result, error, float(ended_at))
    proof = prove((*row[:NUM_INTENT], *outcome, row.prev_hash), blob)
    driver.execute(FINISH, (*outcome, proof, blob, pid, strand, seq))


def keep_apart(
    driver: sqlite3.Connection, state: JournalState, result: bytes | None, error: bytes | None
) -> tuple[bytes | None, bytes | None, bytes | None]:
    """Result and error as the row is to hold them, and the digest of a body that it does not."""
    body = result if state == "DONE" else error
    if body is None or len(body) <= blobs.MAX_ROW_BODY_BYTES:
        return result, error, None
    digest = blobs.put(driver, body)
    return (None, error, digest) if state == "DONE" else (result, None, digest)


def drop_rows(connection: Connection, pid: int) -> int:
    """Take all rows of a process out; how many. The next one links to the last that was there."""
    driver = driver_of(connection)
    reach = extent.read(driver, pid)
    num_rows = driver.execute("DELETE FROM journal WHERE pid = ?", (pid,)).rowcount
    blobs.remove_unused(driver)
    extent.keep(driver, pid, reach._replace(num_rows=0, first_hash=reach.last_hash))
    return num_rows


def begin_anew(connection: Connection, row: JournalRow) -> None:
    """Let a process's journal begin with this row of CHECKPOINT_STRAND; the rows before it go.

    Its number is how many such rows came before. It goes on with the chain, so that what was
    taken out in between would still be missed.
    """
    driver = driver_of(connection)
    (num_before,) = driver.execute(
        "SELECT coalesce(max(seq) + 1, 0) FROM journal WHERE pid = ? AND strand = ?",
        (row.pid, CHECKPOINT_STRAND),
    ).fetchone()
    first = replace(row, strand=CHECKPOINT_STRAND, seq=num_before)
    drop_rows(connection, row.pid)
    insert_row(connection, first)


async def load(db: Database, pid: int) -> list[JournalRow]:
    """A process's calls in the order in which they began, with the bodies of their outcomes.

    E_STORAGE names the first row that is damaged, breaks the chain or has lost its body.
    """
    return await db.read(lambda connection: list(walk(connection, pid)))


async def load_outline(db: Database, pid: int) -> list[JournalRow]:
    """As `load`, but a body that is kept apart stays there, for `fill` to bring when it is due."""

    def read(connection: Connection) -> list[JournalRow]:
        sizes = dict(driver_of(connection).execute(FIND_BODY_SIZES, (pid,)))
        rows = [row.to_row() for row in verified(connection, pid)]
        return [
            row if row.blob is None else replace(row, blob_bytes=sizes.get(row.blob, 0))
            for row in rows
        ]

    return await db.read(read)


async def find(db: Database, pid: int, strand: str, seq: int) -> JournalRow | None:
    """One call's row, everything queued included; E_STORAGE if it is damaged or lost."""
    await db.flush(owner=pid)
    return await db.read(partial(find_row, pid=pid, strand=strand, seq=seq))


async def fill(db: Database, row: JournalRow) -> JournalRow:
    """The row with the body of its outcome. E_STORAGE naming the call if that is lost."""
    return await db.read(lambda connection: fill_row(driver_of(connection), row))


def find_row(connection: Connection, pid: int, strand: str, seq: int) -> JournalRow | None:
    """`find` on one snapshot. That there is no such row is proved by all that there are."""
    driver = driver_of(connection)
    found = driver.execute(FIND, (pid, strand, seq)).fetchone()
    if found is not None:
        row = StoredRow._make(found)
        row.require_sound()
        if row[:3] == (pid, strand, seq):
            return fill_row(driver, row.to_row())
    for other in verified(connection, pid):
        if other[1:3] == (strand, seq):
            raise damage(f"the index to the journal's {other.where} is damaged")
    return None


def fill_row(driver: sqlite3.Connection, row: JournalRow) -> JournalRow:
    """`fill` on one snapshot."""
    if row.blob is None:
        return row
    body = blobs.read(driver, row.blob, f"the journal's call {row.pid}/{row.strand}/{row.seq}")
    if row.state == "DONE":
        return replace(row, result=body, blob=None, blob_bytes=0)
    return replace(row, error=body, blob=None, blob_bytes=0)


def walk(connection: Connection, pid: int) -> Iterator[JournalRow]:
    """A process's calls with their bodies, one at a time."""
    for row in verified(connection, pid):
        yield fill_row(driver_of(connection), row.to_row())


def verified(connection: Connection, pid: int) -> Iterator[StoredRow]:
    """A process's rows, each after it was proved; after the last one, that there is none more."""
    driver = driver_of(connection)
    reach = extent.read(driver, pid)
    num_rows, last_hash = 0, reach.first_hash
    for row in linked(driver.execute(FIND_ALL, (pid,)), pid, last_hash):
        num_rows, last_hash = num_rows + 1, row.hash()
        yield row
    require_end(reach, pid, num_rows, last_hash)


def linked(found: Iterable[Any], pid: int, prev_hash: bytes) -> Iterator[StoredRow]:
    """The rows, each after its checksum and its link to the one before were proved."""
    for row in map(StoredRow._make, found):
        row.require_sound()
        if row.pid != pid or row.prev_hash != prev_hash:
            raise damage(
                f"the journal's chain breaks before {row.where}: a row is missing or foreign"
            )
        prev_hash = row.hash()
        yield row


def require_end(reach: Extent, pid: int, num_rows: int, last_hash: bytes) -> None:
    """E_STORAGE unless the journal ends where it should."""
    if (reach.num_rows, reach.last_hash) != (num_rows, last_hash):
        raise damage(
            f"the journal of process {pid} has {num_rows} sound calls and should have"
            f" {reach.num_rows}: its last ones are missing"
        )


def row_bytes(row: JournalRow) -> int:
    """What a row weighs in the store, in bytes, with a body that is kept apart."""
    return ROW_BYTES + len(row.result or b"") + len(row.error or b"") + row.blob_bytes


def to_float(value: float | None) -> float | None:
    """A time as SQLite gives it back, so that a checksum over it holds."""
    return None if value is None else float(value)


def append_output(
    connection: Connection, pid: int, text: str, call: tuple[str, int] | None = None
) -> int:
    """Add to what a process has written; how many characters came before.

    `call` is the strand and number of the call that wrote it.
    """
    driver = driver_of(connection)
    reach = extent.read(driver, pid)
    if text:
        fields = (pid, reach.num_chars, len(text), text, *(call or (None, None)))
        driver.execute(ADD_TEXT, (*fields, checksum(*fields)))
        extent.keep(driver, pid, reach._replace(num_chars=reach.num_chars + len(text)))
    return reach.num_chars


def walk_texts(connection: Connection, pid: int, offset_chars: int = 0) -> Iterator[Written]:
    """What a process has written from the start of a text on. E_STORAGE if it is not all that."""
    driver = driver_of(connection)
    num_chars = extent.read(driver, pid).num_chars
    for start, size, *rest, proof in driver.execute(FIND_TEXTS, (pid, offset_chars)):
        if start != offset_chars or proof != checksum(pid, start, size, *rest):
            break
        offset_chars += size
        yield Written._make(rest)
    if offset_chars != num_chars:
        raise damage(f"the output of process {pid} is damaged at character {offset_chars}")


def walk_output(connection: Connection, pid: int, offset_chars: int = 0) -> Iterator[str]:
    """`walk_texts` without the calls."""
    return (written.text for written in walk_texts(connection, pid, offset_chars))


async def read_output(db: Database, pid: int) -> str:
    """All that a process has written. E_STORAGE if some of it is damaged or missing."""
    return await db.read(lambda connection: "".join(walk_output(connection, pid)))


def count_printed_chars(connection: Connection, pid: int) -> int:
    """How many characters a process has written."""
    return extent.read(driver_of(connection), pid).num_chars
