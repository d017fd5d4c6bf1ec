"""The table of processes: one row for each run of an app, kept after it has ended.

Pids count up and are never used twice. What an app was started with is the kernel's own encoding
in `spec`; the other columns are what listings show. Every row carries a checksum over what it says
(SEALED), so whatever changes that does it by `change`; the state, which changes often and in many
at once, is one of a few words instead. A damaged row concerns its process alone: listings show it
as DAMAGED.
"""

from typing import Any, NamedTuple, get_args

import msgspec
from sqlalchemy import Connection, insert
from sqlalchemy import update as update_table

from llmos.syscalls.errors import E_STORAGE
from llmos.syscalls.process import State

from .checksum import checksum, damage
from .db import Database
from .driver import driver_of
from .entry import STORE_ERRORS
from .journal import count_printed_chars
from .schema import process

FIND_ROOT = (
    "WITH RECURSIVE line(pid, parent, depth) AS ("
    " SELECT pid, parent, 0 FROM process WHERE pid = ?"
    " UNION ALL SELECT up.pid, up.parent, depth + 1"
    " FROM process up JOIN line ON up.pid = line.parent)"
    " SELECT pid FROM line ORDER BY depth DESC LIMIT 1"
)
DAMAGED = "DAMAGED"
STATES = frozenset(get_args(State)) - {DAMAGED}
SEALED = (
    "pid, parent, app, tenant, model, exit_status, exit_code, created_at, ended_at, prompt_tokens,"
    " completion_tokens, spec, result"
)


class ProcessRecord(msgspec.Struct, frozen=True):
    """A row of the table. Times are Unix seconds; `ended_at` None: it lives, sleeps, or was left.

    `result` is what it returned, or why it failed; of one that was left, why it cannot go on.
    """

    pid: int
    parent: int | None
    app: str
    tenant: str
    model: str
    state: str
    exit_status: str | None
    exit_code: int | None
    created_at: float
    ended_at: float | None
    prompt_tokens: int
    completion_tokens: int
    spec: bytes
    result: str | None
    num_restarts: int = 0
    restarted_at: float | None = None


_FIELDS = ", ".join(ProcessRecord.__struct_fields__)
FIND = f"SELECT {_FIELDS}, checksum, {SEALED} FROM process WHERE pid = ?"
FIND_FROM = f"SELECT {_FIELDS}, checksum, {SEALED} FROM process WHERE pid >= ?"
FIND_SEALED = f"SELECT {SEALED} FROM process WHERE pid = ?"
SEAL = "UPDATE process SET checksum = ? WHERE pid = ?"
_NUM_FIELDS = len(ProcessRecord.__struct_fields__)


def create_row(
    connection: Connection,
    *,
    app: str,
    spec: bytes,
    tenant: str,
    model: str,
    state: str,
    parent: int | None,
    created_at: float,
) -> int:
    """Add a process in the caller's transaction; its pid."""
    statement = (
        insert(process)
        .values(app=app, spec=spec, tenant=tenant, model=model, state=state, parent=parent)
        .values(created_at=created_at, prompt_tokens=0, completion_tokens=0)
        .returning(process.c.pid)
    )
    pid = int(connection.execute(statement).scalar_one())
    _seal(connection, pid)
    return pid


def change(connection: Connection, pid: int, **columns: Any) -> None:
    """Change columns of a process in the caller's transaction.

    E_STORAGE if there is no such process, or if its record is damaged.
    """
    if read(connection, pid) is None:
        raise E_STORAGE(f"the store has no process {pid}")
    connection.execute(update_table(process).where(process.c.pid == pid).values(**columns))
    _seal(connection, pid)


def change_unfinished(connection: Connection, pid: int, **columns: Any) -> None:
    """Change columns of a process, unless it has ended. E_STORAGE if its record is damaged."""
    record = read(connection, pid)
    if record is not None and record.ended_at is None:
        change(connection, pid, **columns)


async def update(db: Database, pid: int, **columns: Any) -> None:
    """Change columns of a process, durably. E_STORAGE as for `change`.

    E_STORAGE too when the disk fails and who waits for the process is given up: the change is
    made as soon as the disk works again.
    """
    db.write_nowait(lambda connection: change(connection, pid, **columns), owner=pid)
    await db.flush(owner=pid, keep=True)


async def get(db: Database, pid: int) -> ProcessRecord | None:
    """The process, if there ever was one of that pid. E_STORAGE if its record is damaged."""
    return await db.read(lambda connection: read(connection, pid))


async def list(db: Database, limit: int = 100) -> tuple[ProcessRecord, ...]:
    """The newest `limit` processes, newest last; a damaged one has no more than its pid."""
    return await db.read(lambda connection: _read_newest(connection, limit))


def find_children(connection: Connection, pid: int) -> tuple[int, ...]:
    """The children of a process that have not ended."""
    query = "SELECT pid FROM process WHERE parent = ? AND ended_at IS NULL ORDER BY pid"
    return tuple(connection.exec_driver_sql(query, (pid,)).scalars())


class Left(NamedTuple):
    """A process that does not live, its first ancestor, and how much it has written."""

    record: ProcessRecord
    root: int
    num_printed_chars: int


async def find_left(db: Database, pid: int) -> Left | None:
    """What there is of a process, if there ever was one of that pid: in one read."""

    def query(connection: Connection) -> Left | None:
        record = read(connection, pid)
        if record is None:
            return None
        root = connection.exec_driver_sql(FIND_ROOT, (pid,)).scalar_one()
        return Left(record, int(root), count_printed_chars(connection, pid))

    return await db.read(query)


def read(connection: Connection, pid: int) -> ProcessRecord | None:
    """`get` on one snapshot."""
    row = driver_of(connection).execute(FIND, (pid,)).fetchone()
    if row is None:
        if 1 <= pid <= last_given(connection):
            raise damage(f"the record of process {pid} is missing")
        return None
    record = _to_record(row)
    if record is None or record.pid != pid:
        raise damage(f"the record of process {pid} is damaged")
    return record


def last_given(connection: Connection) -> int:
    """The highest pid that SQLite gave out (sqlite.org/autoinc.html); 0 if there was none.

    Rows are never removed, so "there is no such process" and "it is lost" can be told apart.
    """
    query = "SELECT seq FROM sqlite_sequence WHERE name = 'process'"
    (number,) = driver_of(connection).execute(query).fetchone() or (0,)
    if not isinstance(number, int):
        raise damage("the last pid is damaged")
    return number


def find_last(connection: Connection) -> int:
    """The highest pid that there ever was; 0 if there was none."""
    stored = driver_of(connection).execute("SELECT max(pid) FROM process").fetchone()[0]
    return max(last_given(connection), stored or 0)


def _read_newest(connection: Connection, limit: int) -> tuple[ProcessRecord, ...]:
    last = find_last(connection)
    first = max(1, last - limit + 1)
    try:
        found = {row[0]: row for row in driver_of(connection).execute(FIND_FROM, (first,))}
    except STORE_ERRORS:  # something in one of them: then each one alone
        found = {}
    return tuple(
        (_to_record(found[pid]) if pid in found else None) or _read_or_mark(connection, pid)
        for pid in range(first, last + 1)
    )


def _read_or_mark(connection: Connection, pid: int) -> ProcessRecord:
    """A process's record, or one that says that it is damaged."""
    try:
        found = read(connection, pid)
    except (E_STORAGE, *STORE_ERRORS):
        found = None
    return found or ProcessRecord(
        pid, None, "?", "", "", DAMAGED, None, None, 0.0, None, 0, 0, b"", None
    )


def _to_record(row: tuple[Any, ...]) -> ProcessRecord | None:
    """The record that a row of FIND holds; None if it is damaged."""
    proof, *sealed = row[_NUM_FIELDS:]
    record = ProcessRecord(*row[:_NUM_FIELDS])
    return record if proof == checksum(*sealed) and record.state in STATES else None


def _seal(connection: Connection, pid: int) -> None:
    """Take what the row is now for true. The caller has just written it."""
    driver = driver_of(connection)
    sealed = driver.execute(FIND_SEALED, (pid,)).fetchone()
    driver.execute(SEAL, (checksum(*sealed), pid))
