"""An operation that is queued for the writer, and what came of it.

Errors of the file or the disk concern every operation of a transaction; all others concern the
operation that raised them alone.
"""

import asyncio
import contextlib
import sqlite3
from collections.abc import Callable, Iterable, Sequence
from types import TracebackType

from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError

from llmos.syscalls.errors import E_STORAGE

Operation = Callable[[Connection], object]

RETRY_AFTER_SECONDS = 5.0

# Result codes that speak of the file or the disk, not of the statement (sqlite.org/rescode.html).
PASSING_ERROR_CODES = frozenset(
    {
        sqlite3.SQLITE_BUSY,
        sqlite3.SQLITE_LOCKED,
        sqlite3.SQLITE_NOMEM,
        sqlite3.SQLITE_READONLY,
        sqlite3.SQLITE_IOERR,
        sqlite3.SQLITE_FULL,
        sqlite3.SQLITE_CANTOPEN,
        sqlite3.SQLITE_PROTOCOL,
    }
)
# What a statement raises where the file is damaged. The last one: SQLite quotes the damage, and the
# driver takes that for text.
STORE_ERRORS = (DBAPIError, sqlite3.Error, UnicodeDecodeError)
DISK_ERROR_CODES = PASSING_ERROR_CODES | {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}


def storage_error(error: BaseException) -> E_STORAGE:
    """`error` as callers see it: SQLite's own words, without statement or values.

    It says when to come back if it may pass by itself: a full disk does, a damaged file does not.
    """
    cause = error.orig if isinstance(error, DBAPIError) else error
    may_pass = result_code(error) in PASSING_ERROR_CODES
    return E_STORAGE(
        f"the store failed: {cause}",
        retry_after_seconds=RETRY_AFTER_SECONDS if may_pass else None,
    )


def result_code(error: BaseException) -> int:
    """SQLite's primary result code; 0 for an error that is not SQLite's."""
    cause = error.orig if isinstance(error, DBAPIError) else error
    return int(getattr(cause, "sqlite_errorcode", 0)) & 0xFF


def is_disk_error(error: BaseException) -> bool:
    """Whether the disk or the file failed, so that nothing of the transaction may stay."""
    return result_code(error) in DISK_ERROR_CODES


class Entry:
    """A queued operation, who waits for it (nobody: None), and what came of it.

    While the store is held up by its disk, one that may not be dropped stays until it is durable;
    another one is given up with `owner`, or when callers are no longer asked to wait.
    """

    __slots__ = ("error", "future", "keep", "operation", "owner", "result")

    def __init__(
        self,
        operation: Operation,
        future: asyncio.Future[object] | None,
        *,
        owner: int | None = None,
        keep: bool = False,
    ) -> None:
        self.operation = operation
        self.future = future
        self.owner = owner
        self.keep = keep or future is None
        self.result: object = None
        self.error: BaseException | None = None

    def resolve(self) -> None:
        """Tell the one who waits, in the loop of the one who waits."""
        if self.future is None or self.future.done():
            return
        if isinstance(self.error, StopIteration):
            # The one error that a future cannot carry.
            self.future.set_exception(RuntimeError("an operation raised StopIteration"))
        elif self.error is not None:
            self.future.set_exception(self.error)
        else:
            self.future.set_result(self.result)


def deliver(entries: Iterable[Entry]) -> None:
    """Resolve futures from another thread, with one wake-up of each event loop for all."""
    loops: dict[asyncio.AbstractEventLoop, list[Entry]] = {}
    for entry in entries:
        if entry.future is not None:
            loops.setdefault(entry.future.get_loop(), []).append(entry)
    for loop, waited_for in loops.items():
        # A loop that is closed has nobody waiting in it.
        with contextlib.suppress(RuntimeError):
            loop.call_soon_threadsafe(resolve_all, waited_for)


def resolve_all(entries: Sequence[Entry]) -> None:
    """Resolve the futures of one event loop, in it."""
    for entry in entries:
        entry.resolve()


class Savepoint:
    """Undoes one operation alone when it raises and keeps the error for the one who asked.

    Every error is kept, whatever its class: it belongs to the caller, and the other operations
    of the transaction must not suffer. Only an error of the disk passes through.
    """

    def __init__(self, driver: sqlite3.Connection, entry: Entry) -> None:
        self._driver = driver
        self._entry = entry

    def __enter__(self) -> None:
        self._driver.execute("SAVEPOINT operation")

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> bool:
        if error is not None and is_disk_error(error):
            return False
        if not self._driver.in_transaction:
            raise sqlite3.OperationalError("an operation ended the transaction") from error
        if error is not None:
            self._driver.execute("ROLLBACK TO operation")
            is_sql = isinstance(error, STORE_ERRORS)
            self._entry.error = storage_error(error) if is_sql else error
        self._driver.execute("RELEASE operation")
        return True
