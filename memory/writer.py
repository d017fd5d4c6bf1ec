"""The one writer of a database: a thread that commits many operations with one fsync.

Operations run in the order in which they were queued. All that wait when the thread comes round
share one transaction, each in a savepoint: one that raises is undone alone and its error goes to
its caller alone. A caller hears of success after COMMIT, never before.

When the disk fails, the whole transaction is undone. Those who waited get E_STORAGE; operations
that nobody waited for stay at the head of the queue and are tried again before anything else, so
an acknowledged write always proves that all writes queued before it are durable too.

The write-ahead log is copied back here and nowhere else: SQLite before 3.51.3 can corrupt a file
when two connections do that at once.
"""

import asyncio
import contextlib
import queue
import sqlite3
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import cast

from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError

from llmos.syscalls.errors import E_STORAGE

Operation = Callable[[Connection], object]

MAX_BATCH = 512
IDLE_SECONDS = 1.0
CHECKPOINT_BYTES = 1000 * 4096
BUSY_TIMEOUT_MS = 5000

# Result codes that speak of the file or the disk, not of the statement (sqlite.org/rescode.html).
DISK_ERROR_CODES = frozenset(
    {
        sqlite3.SQLITE_BUSY,
        sqlite3.SQLITE_LOCKED,
        sqlite3.SQLITE_NOMEM,
        sqlite3.SQLITE_READONLY,
        sqlite3.SQLITE_IOERR,
        sqlite3.SQLITE_CORRUPT,
        sqlite3.SQLITE_FULL,
        sqlite3.SQLITE_CANTOPEN,
        sqlite3.SQLITE_PROTOCOL,
        sqlite3.SQLITE_NOTADB,
    }
)


def storage_error(error: BaseException) -> E_STORAGE:
    """`error` as callers see it: SQLite's own words, without statement or values."""
    cause = error.orig if isinstance(error, DBAPIError) else error
    return E_STORAGE(f"the store failed: {cause}")


def result_code(error: BaseException) -> int:
    """SQLite's primary result code; 0 for an error that is not SQLite's."""
    cause = error.orig if isinstance(error, DBAPIError) else error
    return int(getattr(cause, "sqlite_errorcode", 0)) & 0xFF


def is_disk_error(error: BaseException) -> bool:
    """Whether the disk or the file failed, so that nothing of the transaction may stay."""
    return result_code(error) in DISK_ERROR_CODES


class Entry:
    """A queued operation, who waits for it (nobody: None), and what came of it."""

    __slots__ = ("error", "future", "operation", "result")

    def __init__(self, operation: Operation, future: asyncio.Future[object] | None) -> None:
        self.operation = operation
        self.future = future
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
            is_sql = isinstance(error, DBAPIError | sqlite3.Error)
            self._entry.error = storage_error(error) if is_sql else error
        self._driver.execute("RELEASE operation")
        return True


class Writer:
    """Owns `connection` (in driver autocommit mode) from `start` until `stop` returns."""

    def __init__(self, connection: Connection, path: Path) -> None:
        self._connection = connection
        self._driver = cast("sqlite3.Connection", connection.connection.dbapi_connection)
        self._log_path = path.with_name(path.name + "-wal")
        self._log_bound_bytes = CHECKPOINT_BYTES
        self._log_is_empty = False
        self._queue: queue.SimpleQueue[Entry | None] = queue.SimpleQueue()
        self._batch: list[Entry] = []
        self._retry: list[Entry] = []
        self._lost: BaseException | None = None
        self._closed = False
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._run, name="memory-writer", daemon=True)
        self.failure: E_STORAGE | None = None

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def put(self, entry: Entry) -> None:
        """Queue an operation. E_STORAGE once the writer is stopped."""
        with self._lock:
            if self._closed:
                raise E_STORAGE("the store is closed")
            self._queue.put(entry)

    def stop(self) -> None:
        """Commit what is queued, empty the write-ahead log, end the thread."""
        with self._lock:
            if not self._closed:
                self._closed = True
                self._queue.put(None)
        self._thread.join()

    def _run(self) -> None:
        try:
            while self._step():
                pass
        finally:
            # Also when a bug ends the thread: nobody may wait for ever.
            self._reject_rest()

    def _step(self) -> bool:
        """Wait for work and do one transaction; False when the writer is to end."""
        batch, is_last = self._take()
        if batch:
            self._batch = batch
            self._commit(batch)
            self._batch = []
        if is_last or not batch:
            self._checkpoint("TRUNCATE")
        elif self._log_size_bytes() > self._log_bound_bytes:
            self._checkpoint("PASSIVE")
        return not is_last

    def _take(self) -> tuple[list[Entry], bool]:
        """What is queued now, waiting until there is something; empty when idle for a while."""
        batch, self._retry = self._retry, []
        try:
            # With an empty log and nothing to try again the machine may sleep.
            needs_wake = bool(batch) or not self._log_is_empty
            entry = self._queue.get(timeout=IDLE_SECONDS if needs_wake else None)
            while entry is not None:
                batch.append(entry)
                if len(batch) >= MAX_BATCH:
                    return batch, False
                entry = self._queue.get_nowait()
            return batch, True
        except queue.Empty:
            return batch, False

    def _commit(self, batch: list[Entry]) -> None:
        try:
            self._driver.execute("BEGIN IMMEDIATE")
            for entry in batch:
                self._apply(entry)
            self._driver.execute("COMMIT")
        except (DBAPIError, sqlite3.Error) as error:
            self._undo(batch, error)
        else:
            self._log_is_empty = False
            self.failure = None
        self._deliver(batch)

    def _apply(self, entry: Entry) -> None:
        entry.error = None
        if entry.future is not None and self._lost is not None:
            # An earlier operation failed with nobody there to hear it. To acknowledge this one
            # would claim that everything before it is durable.
            entry.error, self._lost = storage_error(self._lost), None
            return
        with Savepoint(self._driver, entry):
            entry.result = entry.operation(self._connection)
        if entry.future is None and entry.error is not None:
            self._lost = entry.error

    def _undo(self, batch: list[Entry], error: BaseException) -> None:
        if self._driver.in_transaction:
            self._driver.execute("ROLLBACK")
        self.failure = storage_error(error)
        for entry in batch:
            entry.error = storage_error(error)
        self._retry = [entry for entry in batch if entry.future is None]

    def _deliver(self, batch: Sequence[Entry]) -> None:
        """Resolve the futures, with one wake-up of each event loop for the whole batch."""
        loops: dict[asyncio.AbstractEventLoop, list[Entry]] = {}
        for entry in batch:
            if entry.future is not None:
                loops.setdefault(entry.future.get_loop(), []).append(entry)
        for loop, entries in loops.items():
            # A loop that is closed has nobody waiting in it.
            with contextlib.suppress(RuntimeError):
                loop.call_soon_threadsafe(resolve_all, entries)

    def _log_size_bytes(self) -> int:
        try:
            return self._log_path.stat().st_size
        except FileNotFoundError:
            return 0

    def _checkpoint(self, mode: str) -> None:
        """Copy the log into the database file, without waiting for readers.

        After a complete copy SQLite fills the log from its start again, so the file grows past
        its present size only when as many pages were written once more: that is the next bound.
        """
        self._driver.execute("PRAGMA busy_timeout = 0")
        try:
            row = self._driver.execute(f"PRAGMA wal_checkpoint({mode})").fetchone()
        except sqlite3.Error as error:
            self.failure = storage_error(error)
            row = (1, 1, 0)
        self._driver.execute(f"PRAGMA busy_timeout = {BUSY_TIMEOUT_MS}")
        is_busy, num_log_pages, num_copied_pages = row
        self._log_is_empty = mode == "TRUNCATE" and not is_busy
        rest = 0 if num_log_pages == num_copied_pages else CHECKPOINT_BYTES
        self._log_bound_bytes = max(CHECKPOINT_BYTES, self._log_size_bytes() + rest)

    def _reject_rest(self) -> None:
        with self._lock:
            self._closed = True
        rest = self._batch + self._retry
        with contextlib.suppress(queue.Empty):
            while True:
                entry = self._queue.get_nowait()
                if entry is not None:
                    rest.append(entry)
        for entry in rest:
            entry.error = E_STORAGE("the store is closed")
        self._deliver(rest)


def resolve_all(entries: Sequence[Entry]) -> None:
    """Resolve a batch's futures of one event loop."""
    for entry in entries:
        entry.resolve()
