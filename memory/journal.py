"""The journal: one row per syscall of a process, and the text that the process has written.

A row has an immutable part, written when the call begins, and an outcome. Each row holds the hash
of the immutable part of the row inserted before it in the same process (a chain: a row that was
taken out, put in or rewritten breaks it), and a checksum of all of itself. `load` proves both.

The functions that take a connection run inside `Database.write`, so that an effect and its DONE
row can share one transaction.
"""

from collections.abc import Iterable, Sequence
from typing import Any, Literal

import msgspec
from sqlalchemy import Connection

from llmos.syscalls.errors import E_STORAGE

from .checksum import checksum
from .db import Database
from .driver import driver_of

JournalState = Literal["INTENT", "DONE", "FAILED", "IN_DOUBT", "CANCELLED"]
UNFINISHED = ("INTENT", "IN_DOUBT")

INTENT_COLUMNS = "pid, strand, seq, name, effect, digest, label, code_hash, started_at"
COLUMNS = f"{INTENT_COLUMNS}, state, result, error, ended_at, prev_hash, checksum"
NUM_INTENT = len(INTENT_COLUMNS.split(", "))
INSERT = f"INSERT INTO journal({COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
FIND = f"SELECT {COLUMNS} FROM journal WHERE pid = ? AND strand = ? AND seq = ?"
FIND_LAST = (
    f"SELECT {INTENT_COLUMNS}, prev_hash FROM journal WHERE pid = ? ORDER BY id DESC LIMIT 1"
)
FIND_ALL = f"SELECT {COLUMNS} FROM journal WHERE pid = ? ORDER BY id"
FINISH = (
    "UPDATE journal SET state = ?, result = ?, error = ?, ended_at = ?, checksum = ?"
    " WHERE pid = ? AND strand = ? AND seq = ?"
)
FIRST_HASH = b""


class JournalRow(msgspec.Struct, frozen=True):
    """One syscall of a process. `digest` is of its arguments; times are Unix seconds."""

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


def insert_row(connection: Connection, row: JournalRow) -> None:
    """Add a row, in whatever state; E_STORAGE if its (pid, strand, seq) is taken."""
    driver = driver_of(connection)
    last = driver.execute(FIND_LAST, (row.pid,)).fetchone()
    prev_hash = FIRST_HASH if last is None else checksum(*last)
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
    fields = (*intent, row.state, row.result, row.error, to_float(row.ended_at), prev_hash)
    driver.execute(INSERT, (*fields, checksum(*fields)))


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
    row = connection.exec_driver_sql(FIND, (pid, strand, seq)).first()
    if row is None:
        raise E_STORAGE(f"the journal has no call {pid}/{strand}/{seq}")
    require_sound(row)
    if row.state not in UNFINISHED:
        raise E_STORAGE(f"the journal's call {pid}/{strand}/{seq} is already {row.state}")
    outcome = (state, result, error, float(ended_at))
    proof = checksum(*row[:NUM_INTENT], *outcome, row.prev_hash)
    connection.exec_driver_sql(FINISH, (*outcome, proof, pid, strand, seq))


async def load(db: Database, pid: int) -> list[JournalRow]:
    """A process's calls in the order in which they began.

    E_STORAGE names the first row that is damaged or breaks the chain.
    """
    rows = await db.read(lambda connection: connection.exec_driver_sql(FIND_ALL, (pid,)).all())
    return [to_row(row) for row in verified(rows)]


async def find(db: Database, pid: int, strand: str, seq: int) -> JournalRow | None:
    """One call's row, everything queued included; E_STORAGE if it is damaged."""
    await db.flush(owner=pid)
    row = await db.read(
        lambda connection: connection.exec_driver_sql(FIND, (pid, strand, seq)).first()
    )
    if row is None:
        return None
    require_sound(row)
    return to_row(row)


def verified(rows: Sequence[Any], prev_hash: bytes = FIRST_HASH) -> Iterable[Any]:
    """The rows, each after its checksum and its link to the one before were proved."""
    for row in rows:
        require_sound(row)
        if row.prev_hash != prev_hash:
            raise E_STORAGE(
                f"the journal's chain breaks before call {row.pid}/{row.strand}/{row.seq}:"
                " a row is missing or foreign; restore a backup"
            )
        prev_hash = checksum(*row[:NUM_INTENT], row.prev_hash)
        yield row


def require_sound(row: Any) -> None:
    """E_STORAGE naming the row unless its checksum holds."""
    if checksum(*row[:-1]) != row.checksum:
        raise E_STORAGE(
            f"the journal's call {row.pid}/{row.strand}/{row.seq} is damaged; restore a backup"
        )


def to_row(row: Any) -> JournalRow:
    """A row of `COLUMNS` as the kernel sees it."""
    return JournalRow(
        pid=row.pid,
        strand=row.strand,
        seq=row.seq,
        name=row.name,
        effect=row.effect,
        digest=row.digest,
        state=row.state,
        result=row.result,
        error=row.error,
        label=row.label,
        code_hash=row.code_hash,
        started_at=row.started_at,
        ended_at=row.ended_at,
    )


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
    last = driver.execute(
        "SELECT offset_chars + num_chars FROM output WHERE pid = ?"
        " ORDER BY offset_chars DESC LIMIT 1",
        (pid,),
    ).fetchone()
    offset_chars = 0 if last is None else int(last[0])
    if text:
        driver.execute(
            "INSERT INTO output(pid, offset_chars, num_chars, text, strand, seq)"
            " VALUES (?, ?, ?, ?, ?, ?)",
            (pid, offset_chars, len(text), text, *(call or (None, None))),
        )
    return offset_chars


async def read_output(db: Database, pid: int) -> str:
    """All that a process has written."""
    rows = await db.read(
        lambda connection: connection.exec_driver_sql(
            "SELECT text FROM output WHERE pid = ? ORDER BY offset_chars", (pid,)
        ).all()
    )
    return "".join(row.text for row in rows)
