"""What sleeping processes wait for: a row for each wait, and what fires one wakes its process.

A process that sleeps has the state EVICTED. To wake it is to take that state and its waits away, in
the transaction of whatever fired: then it is one that is to go on, whatever the kernel does next.
Times are Unix seconds.
"""

from collections.abc import Iterable, Sequence

import msgspec
from sqlalchemy import Connection

from llmos.syscalls.process import WaitKind

from .db import Database
from .driver import driver_of

ASLEEP, AWAKE = "EVICTED", "NEW"
INSERT = (
    "INSERT INTO wait(pid, strand, seq, kind, set_at, due_at, target) VALUES (?, ?, ?, ?, ?, ?, ?)"
)
FIND_DUE = "SELECT pid FROM wait WHERE due_at <= ? ORDER BY due_at, pid LIMIT ?"
NEXT_DUE = "SELECT due_at FROM wait WHERE due_at IS NOT NULL ORDER BY due_at LIMIT 1"
BEGIN_ANEW = (
    "UPDATE wait SET due_at = due_at - set_at + ?1, set_at = ?1"
    " WHERE set_at > ?1 AND due_at IS NOT NULL"
)
FIND_UNFINISHED = (
    "SELECT pid FROM process WHERE ended_at IS NULL AND state NOT IN ('EVICTED', 'STOPPED')"
    " ORDER BY pid"
)


class Wait(msgspec.Struct, frozen=True):
    """One wait of a sleeping process, by its call's number.

    It is over at `due_at`, if there is one; a child's when `target` has ended, a message's when
    one has come, a person's when somebody says so.
    """

    pid: int
    strand: str
    seq: int
    kind: WaitKind
    due_at: float | None = None
    target: int | None = None


def fall_asleep(connection: Connection, waits: Sequence[Wait], now: float) -> bool:
    """Let a process sleep until the first of its waits is over.

    False, and nothing is written, if one of them is already, its call has ended, or it is stopped.
    """
    if any(_is_over(connection, wait, now) for wait in waits):
        return False
    stopped = "SELECT 1 FROM process WHERE pid = ? AND state = 'STOPPED'"
    if driver_of(connection).execute(stopped, (waits[0].pid,)).fetchone() is not None:
        return False
    write_waits(connection, waits, now)
    return True


def write_waits(connection: Connection, waits: Sequence[Wait], now: float) -> None:
    """Let a process sleep; all waits are of the same one."""
    driver = driver_of(connection)
    for wait in waits:
        where = (wait.pid, wait.strand, wait.seq)
        driver.execute(INSERT, (*where, wait.kind, float(now), wait.due_at, wait.target))
    driver.execute("UPDATE process SET state = ? WHERE pid = ?", (ASLEEP, waits[0].pid))


def _is_over(connection: Connection, wait: Wait, now: float) -> bool:
    driver = driver_of(connection)
    call = driver.execute(
        "SELECT state FROM journal WHERE pid = ? AND strand = ? AND seq = ?",
        (wait.pid, wait.strand, wait.seq),
    ).fetchone()
    if call != ("INTENT",) or (wait.due_at is not None and wait.due_at <= now):
        return True
    match wait.kind:
        case "child":
            living = "SELECT 1 FROM process WHERE pid = ? AND ended_at IS NULL"
            return driver.execute(living, (wait.target,)).fetchone() is None
        case "message":
            mail = "SELECT 1 FROM mail WHERE pid = ? LIMIT 1"
            return driver.execute(mail, (wait.pid,)).fetchone() is not None
        case _:
            return False


def wake(connection: Connection, pids: Iterable[int]) -> list[int]:
    """Take these processes out of their sleep; those of them that slept, in their order."""
    driver = driver_of(connection)
    woken = []
    for pid in dict.fromkeys(pids):
        change = "UPDATE process SET state = ? WHERE pid = ? AND state = ?"
        if driver.execute(change, (AWAKE, pid, ASLEEP)).rowcount:
            woken.append(pid)
        forget_waits(connection, pid)
    return woken


def wake_due(connection: Connection, now: float, limit: int) -> list[int]:
    """Wake whose time has come: at most `limit`, whoever was due first, first."""
    rows = driver_of(connection).execute(FIND_DUE, (now, limit)).fetchall()
    return wake(connection, (pid for (pid,) in rows))


def fire(connection: Connection, kind: WaitKind, target: int) -> list[int]:
    """Wake who waits for this."""
    rows = driver_of(connection).execute(
        "SELECT pid FROM wait WHERE kind = ? AND target = ? ORDER BY pid", (kind, target)
    )
    return wake(connection, [pid for (pid,) in rows.fetchall()])


def forget_waits(connection: Connection, pid: int) -> None:
    """A process waits for nothing any more."""
    driver_of(connection).execute("DELETE FROM wait WHERE pid = ?", (pid,))


def begin_anew(connection: Connection, now: float) -> int:
    """Let waits that were set in the future begin anew: the clock was set back. How many."""
    return connection.exec_driver_sql(BEGIN_ANEW, (float(now),)).rowcount


async def next_due(db: Database) -> float | None:
    """When the next sleeper is due; None while no time wakes anybody."""
    return await db.read(lambda connection: connection.exec_driver_sql(NEXT_DUE).scalar())


async def find_unfinished(db: Database) -> list[int]:
    """The processes that were running when their kernel ended, or were to go on."""
    return await db.read(
        lambda connection: list(connection.exec_driver_sql(FIND_UNFINISHED).scalars())
    )


async def find_waits(db: Database, pids: Sequence[int]) -> dict[int, tuple[Wait, ...]]:
    """The waits of each of these processes that has some."""
    marks = ", ".join("?" * len(pids))
    query = (
        f"SELECT pid, strand, seq, kind, due_at, target FROM wait WHERE pid IN ({marks})"
        " ORDER BY pid, due_at IS NULL, due_at"
    )
    rows = await db.read(lambda connection: connection.exec_driver_sql(query, tuple(pids)).all())
    found: dict[int, tuple[Wait, ...]] = {}
    for row in rows:
        found[row.pid] = (*found.get(row.pid, ()), Wait(*row))
    return found


async def find_started(db: Database, pid: int) -> dict[tuple[str, int], float]:
    """When each call of a process began that has not ended, by its number."""
    rows = await db.read(
        lambda connection: connection.exec_driver_sql(
            "SELECT strand, seq, started_at FROM journal WHERE pid = ? AND state = 'INTENT'",
            (pid,),
        ).all()
    )
    return {(row.strand, row.seq): row.started_at for row in rows}
