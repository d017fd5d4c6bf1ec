"""A look at a whole store: what of it is damaged, and whose that is.

Everything is read as the kernel reads it, so what passes here is served and what is found here is
refused; SQLite's own checks come first. `check` needs a file that is nobody else's, a copy.
"""

import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from functools import partial
from pathlib import Path

import msgspec
from sqlalchemy import Connection

from llmos.syscalls.errors import E_STORAGE, SyscallError

from . import contexts, journal, mail, processes
from .driver import driver_of, open_read_only
from .entry import STORE_ERRORS, storage_error
from .processes import last_given
from .seal import read_sealed

MAX_FINDINGS_OF_SQLITE = 20
MAX_LOST_PIDS = 1000
STEPS_BETWEEN_LOOKS_AT_THE_CLOCK = 10_000
RESTORE = "llmos db restore FILE, with a backup"
CHECK_INDEX = "INSERT INTO item_fts(item_fts, rank) VALUES ('integrity-check', 1)"


class Damage(msgspec.Struct, frozen=True):
    """Something that is not what was written. `pid` is the process whose it is, None if nobody's.

    `what` is the kind of thing: file, key, index, process, journal, output, mail, context or note.
    """

    what: str
    pid: int | None
    found: str
    fix: str = RESTORE


class Counts(msgspec.Struct):
    """How much was looked at."""

    num_processes: int = 0
    num_calls: int = 0
    num_contexts: int = 0
    num_notes: int = 0


def check(connection: Connection, counts: Counts) -> Iterator[Damage]:
    """All damage, the file's first. Nothing raises: what cannot be read is damaged."""
    yield from check_file(driver_of(connection))
    yield from look("index", None, partial(check_index, driver_of(connection)))
    yield from check_processes(connection, counts)
    yield from check_notes(connection, counts)


def look(what: str, pid: int | None, read: Callable[[], object]) -> Iterator[Damage]:
    """What comes of reading something."""
    try:
        read()
    except SyscallError as error:
        yield Damage(what, pid, error.message.partition("; fix: ")[0])
    except STORE_ERRORS as error:
        yield Damage(what, pid, storage_error(error).message)


def check_file(driver: sqlite3.Connection) -> Iterator[Damage]:
    """What SQLite itself finds: pages, indexes, foreign keys."""
    try:
        for (text,) in driver.execute(f"PRAGMA integrity_check({MAX_FINDINGS_OF_SQLITE})"):
            if text != "ok":
                yield Damage("file", None, " ".join(str(text).split()))
        for table, number, parent, _ in driver.execute("PRAGMA foreign_key_check"):
            yield Damage("key", None, f"row {number} of {table} belongs to no {parent}")
    except STORE_ERRORS as error:
        yield Damage("file", None, storage_error(error).message)


def check_index(driver: sqlite3.Connection) -> None:
    """Compare the text index with the notes. sqlite3.Error when they differ."""
    driver.execute("BEGIN")
    try:
        driver.execute(CHECK_INDEX)
    finally:
        driver.execute("ROLLBACK")


def check_processes(connection: Connection, counts: Counts) -> Iterator[Damage]:
    """Each process's record, its journal with all bodies, its output, mail and contexts."""
    for pid in find_pids(connection):
        counts.num_processes += 1
        yield from look("process", pid, partial(processes.read, connection, pid))
        yield from look("journal", pid, partial(read_journal, connection, pid, counts))
        yield from look("output", pid, partial(read_output, connection, pid))
        yield from look("mail", pid, partial(read_mail, connection, pid))
        yield from check_contexts(connection, pid, counts)


def read_journal(connection: Connection, pid: int, counts: Counts) -> None:
    """Read all calls of a process."""
    for _ in journal.walk(connection, pid):
        counts.num_calls += 1


def read_output(connection: Connection, pid: int) -> None:
    """Read all that a process wrote."""
    for _ in journal.walk_output(connection, pid):
        pass


def read_mail(connection: Connection, pid: int) -> None:
    """Read all messages that a process has not taken."""
    for _ in mail.walk(connection, pid):
        pass


def check_contexts(connection: Connection, pid: int, counts: Counts) -> Iterator[Damage]:
    """A process's contexts, read as it reads them."""
    yield from look("context", pid, partial(contexts.require_all, connection, pid))
    numbers: list[int] = []
    query = partial(
        driver_of(connection).execute, "SELECT number FROM context WHERE pid = ?", (pid,)
    )
    yield from look("context", pid, lambda: numbers.extend(number for (number,) in query()))
    for number in numbers:
        counts.num_contexts += 1
        yield from look("context", pid, partial(contexts.read, connection, pid, number))


def check_notes(connection: Connection, counts: Counts) -> Iterator[Damage]:
    """Each note, forgotten ones too."""
    numbers: list[int] = []
    query = partial(driver_of(connection).execute, "SELECT id FROM item")
    yield from look("note", None, lambda: numbers.extend(number for (number,) in query()))
    for number in numbers:
        counts.num_notes += 1
        yield from look("note", None, partial(read_sealed, connection, number))


def find_pids(connection: Connection) -> list[int]:
    """The pids that rows speak of, and those that were given out and that none speaks of.

    What cannot be read here is found when each one is looked at.
    """
    pids: set[int] = set()
    for table in ("process", "extent", "context"):
        with suppress(*STORE_ERRORS):
            pids.update(pid for (pid,) in driver_of(connection).execute(f"SELECT pid FROM {table}"))
    with suppress(SyscallError, *STORE_ERRORS):
        last = min(last_given(connection), max(pids, default=0) + MAX_LOST_PIDS)
        pids.update(range(1, last + 1))
    return sorted(pids)


def look_quickly(path: Path, timeout_seconds: float) -> bool:
    """Look at the file's pages; False when the time was not enough for all of them.

    E_STORAGE says what is damaged.
    """
    if path.stat().st_size == 0:
        raise E_STORAGE("it is empty, and no store is")
    deadline = time.monotonic() + timeout_seconds
    try:
        with closing(open_read_only(path)) as driver:
            driver.set_progress_handler(
                lambda: time.monotonic() > deadline, STEPS_BETWEEN_LOOKS_AT_THE_CLOCK
            )
            (found,) = driver.execute("PRAGMA quick_check(1)").fetchone()
    except sqlite3.OperationalError as error:
        if error.sqlite_errorcode == sqlite3.SQLITE_INTERRUPT:
            return False
        raise storage_error(error) from error
    except STORE_ERRORS as error:
        raise storage_error(error) from error
    if found != "ok":
        raise E_STORAGE(" ".join(found.split()))
    return True
