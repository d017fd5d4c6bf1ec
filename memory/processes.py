"""The table of processes: one row for each run of an app, kept after it has ended.

Pids count up and are never used twice. What an app was started with is the kernel's own encoding
in `spec`; the other columns are what listings show.
"""

from typing import Any, NamedTuple

import msgspec
from sqlalchemy import Connection, insert, select
from sqlalchemy import update as update_table

from llmos.syscalls.errors import E_STORAGE

from .db import Database
from .journal import count_printed_chars
from .schema import process

FIND_ROOT = (
    "WITH RECURSIVE line(pid, parent, depth) AS ("
    " SELECT pid, parent, 0 FROM process WHERE pid = ?"
    " UNION ALL SELECT up.pid, up.parent, depth + 1"
    " FROM process up JOIN line ON up.pid = line.parent)"
    " SELECT pid FROM line ORDER BY depth DESC LIMIT 1"
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
    return int(connection.execute(statement).scalar_one())


def change(connection: Connection, pid: int, **columns: Any) -> None:
    """Change columns of a process in the caller's transaction. E_STORAGE if there is none."""
    statement = update_table(process).where(process.c.pid == pid).values(**columns)
    if connection.execute(statement).rowcount != 1:
        raise E_STORAGE(f"the store has no process {pid}")


def change_unfinished(connection: Connection, pid: int, **columns: Any) -> None:
    """Change columns of a process, unless it has ended, in the caller's transaction."""
    unfinished = (process.c.pid == pid) & process.c.ended_at.is_(None)
    connection.execute(update_table(process).where(unfinished).values(**columns))


async def update(db: Database, pid: int, **columns: Any) -> None:
    """Change columns of a process, durably. E_STORAGE if there is no such process.

    E_STORAGE too when the disk fails and who waits for the process is given up: the change is
    made as soon as the disk works again.
    """
    db.write_nowait(lambda connection: change(connection, pid, **columns))
    await db.flush(owner=pid, keep=True)


def find(connection: Connection, pid: int) -> ProcessRecord | None:
    """The process, as the caller's transaction sees it."""
    statement = select(process).where(process.c.pid == pid)
    row = connection.execute(statement).mappings().first()
    return None if row is None else ProcessRecord(**row)


async def get(db: Database, pid: int) -> ProcessRecord | None:
    """The process, if there ever was one of that pid."""
    return await db.read(lambda connection: find(connection, pid))


async def list(db: Database, limit: int = 100) -> tuple[ProcessRecord, ...]:
    """The newest `limit` processes, newest last."""
    statement = select(process).order_by(process.c.pid.desc()).limit(limit)
    rows = await db.read(lambda connection: connection.execute(statement).mappings().all())
    return tuple(ProcessRecord(**row) for row in reversed(rows))


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
        record = find(connection, pid)
        if record is None:
            return None
        root = connection.exec_driver_sql(FIND_ROOT, (pid,)).scalar_one()
        return Left(record, int(root), count_printed_chars(connection, pid))

    return await db.read(query)
