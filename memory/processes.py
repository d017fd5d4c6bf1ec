"""The table of processes: one row for each run of an app, kept after it has ended.

Pids count up and are never used twice. What an app was started with is the kernel's own encoding
in `spec`; the other columns are what listings show.
"""

from typing import Any

import msgspec
from sqlalchemy import Connection, insert, select
from sqlalchemy import update as update_table

from llmos.syscalls.errors import E_STORAGE

from .db import Database
from .schema import process


class ProcessRecord(msgspec.Struct, frozen=True):
    """A row of the table. Times are Unix seconds; `ended_at` None: it lives, or its kernel died."""

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


async def update(db: Database, pid: int, **columns: Any) -> None:
    """Change columns of a process, durably. E_STORAGE if there is no such process.

    E_STORAGE too when the disk fails and who waits for the process is given up: the change is
    made as soon as the disk works again.
    """
    db.write_nowait(lambda connection: change(connection, pid, **columns))
    await db.flush(owner=pid, keep=True)


def change(connection: Connection, pid: int, **columns: Any) -> None:
    """Change columns of a process in the caller's transaction. E_STORAGE if there is none."""
    statement = update_table(process).where(process.c.pid == pid).values(**columns)
    if connection.execute(statement).rowcount != 1:
        raise E_STORAGE(f"the store has no process {pid}")


async def get(db: Database, pid: int) -> ProcessRecord | None:
    """The process, if there ever was one of that pid."""
    statement = select(process).where(process.c.pid == pid)
    row = await db.read(lambda connection: connection.execute(statement).mappings().first())
    return None if row is None else ProcessRecord(**row)


async def list(db: Database, limit: int = 100) -> tuple[ProcessRecord, ...]:
    """The newest `limit` processes, newest last."""
    statement = select(process).order_by(process.c.pid.desc()).limit(limit)
    rows = await db.read(lambda connection: connection.execute(statement).mappings().all())
    return tuple(ProcessRecord(**row) for row in reversed(rows))
