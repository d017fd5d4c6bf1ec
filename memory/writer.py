"""The one writer of a database: a thread that commits many operations with one fsync.

Operations run in the order in which they were queued. All that wait when the thread comes round
share one transaction, each in a savepoint: one that raises is undone alone and its error goes to
its caller alone. A caller hears of success after COMMIT, never before.

When the disk fails, the whole transaction is undone and stays at the head of the queue, so an
acknowledged write always proves that all writes queued before it are durable too. Those who wait
get E_STORAGE at once, or wait on while the writer is told to hold them.

A disk can fail a COMMIT after it became durable. So each transaction carries a number of its own,
and before operations run again the number in the file says whether they have run already.
"""

import contextlib
import logging
import queue
import secrets
import sqlite3
import threading
from collections.abc import Callable
from pathlib import Path

from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError

from llmos.syscalls.errors import E_STORAGE

from .driver import driver_of
from .entry import Entry, Savepoint, deliver, storage_error
from .wal import WriteAheadLog

MAX_BATCH = 512
IDLE_SECONDS = 1.0
NUMBER_BITS = 62
SET_NUMBER = (
    "INSERT INTO last_commit(id, number) VALUES (1, ?)"
    " ON CONFLICT(id) DO UPDATE SET number = excluded.number"
)
FIND_NUMBER = "SELECT number FROM last_commit"
Order = Callable[[], None]
logger = logging.getLogger(__name__)


class Writer:
    """Owns `connection` (in driver autocommit mode) from `start` until `stop` returns."""

    def __init__(self, connection: Connection, path: Path) -> None:
        self._connection = connection
        self._driver = driver_of(connection)
        self._log = WriteAheadLog(self._driver, path)
        self._queue: queue.SimpleQueue[Entry | Order | None] = queue.SimpleQueue()
        self._pending: list[Entry] = []
        self._number = secrets.randbits(NUMBER_BITS)
        self._in_doubt: list[Entry] | None = None
        self._failure_watchers: list[Entry] = []
        self._holding = False
        self._lost: dict[int | None, BaseException] = {}
        self._closed = False
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._run, name="memory-writer", daemon=True)
        self.failure: E_STORAGE | None = None

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def put(self, item: Entry | Order) -> None:
        """Queue an operation, or an order to the writer itself. E_STORAGE once it is stopped."""
        with self._lock:
            if self._closed:
                raise E_STORAGE("the store is closed")
            self._queue.put(item)

    def stop(self) -> None:
        """Commit what is queued, empty the write-ahead log, end the thread."""
        with self._lock:
            if not self._closed:
                self._closed = True
                self._queue.put(None)
        self._thread.join()

    def hold(self) -> None:
        """From now on, let those who wait wait on when the disk fails, until `retry` succeeds."""
        self._holding = True

    # -- orders: what another thread asks for through `put`

    def release(self) -> None:
        """Hold nobody any more; who waits hears E_STORAGE."""
        self._holding = False
        self._drop(lambda entry: entry.future is not None)

    def retry(self, done: Entry) -> None:
        """Try again, even if nothing is queued, to learn whether the disk works; then tell."""
        if self.failure is not None:
            self._commit_pending()
        deliver([done])

    def drop_unkept(self) -> None:
        """While the disk fails, give up what need not be kept; its callers get E_STORAGE."""
        self._drop(lambda entry: not entry.keep)

    def drop_owned(self, owner: int) -> None:
        """While the disk fails, give up what this owner waits for."""
        self._drop(lambda entry: entry.future is not None and entry.owner == owner)

    def watch(self, watcher: Entry) -> None:
        """Tell when the disk fails, or that it does."""
        if self.failure is not None:
            deliver([watcher])
        else:
            self._failure_watchers.append(watcher)

    # -- the thread

    def _run(self) -> None:
        try:
            while self._step():
                pass
        finally:
            # Also when a bug ends the thread: nobody may wait for ever.
            self._reject_rest()

    def _step(self) -> bool:
        """Wait for work and do it; False when the writer is to end."""
        orders, is_last = self._take()
        is_idle = not orders and not self._pending
        if self._pending and (is_last or not self._is_held_up()):
            self._commit_pending()
        for order in orders:
            order()
        if is_last or is_idle:
            self._log.copy_back("TRUNCATE")
        return not is_last

    def _is_held_up(self) -> bool:
        """Whether the next try is somebody else's to decide."""
        failure = self.failure
        return self._holding and failure is not None and failure.retry_after_seconds is not None

    def _take(self) -> tuple[list[Order], bool]:
        """Move what is queued to what is pending, waiting for something or until idle for a while.

        Returns the orders among it, and whether the writer is to end.
        """
        # With an empty log and nothing to try again the machine may sleep.
        needs_wake = not self._is_held_up() and (bool(self._pending) or not self._log.is_empty)
        orders: list[Order] = []
        with contextlib.suppress(queue.Empty):
            item = self._queue.get(timeout=IDLE_SECONDS if needs_wake else None)
            while item is not None:
                if isinstance(item, Entry):
                    self._pending.append(item)
                else:
                    orders.append(item)
                if len(self._pending) >= MAX_BATCH:
                    return orders, False
                item = self._queue.get_nowait()
            return orders, True
        return orders, False

    def _commit_pending(self) -> None:
        """Commit all that is pending, until the disk fails; with nothing pending, try the disk."""
        is_done = self._commit(self._pending[:MAX_BATCH])
        while is_done and self._pending:
            is_done = self._commit(self._pending[:MAX_BATCH])

    def _commit(self, batch: list[Entry]) -> bool:
        """One transaction; whether the disk took it."""
        lost = dict(self._lost)
        try:
            if self._resolve_doubt():
                return True
            num_changes = self._driver.total_changes
            self._driver.execute("BEGIN IMMEDIATE")
            for entry in batch:
                self._apply(entry)
            if self._driver.total_changes != num_changes or self.failure is not None:
                self._number += 1
                self._driver.execute(SET_NUMBER, (self._number,))
                self._in_doubt = batch
            self._driver.execute("COMMIT")
        except (DBAPIError, sqlite3.Error) as error:
            self._undo(error, lost)
            return self._is_durable_all_the_same()
        self._finish(batch)
        return True

    def _apply(self, entry: Entry) -> None:
        entry.error = None
        if entry.future is not None and entry.owner in self._lost:
            # An earlier operation of this owner failed with nobody there to hear it. To acknowledge
            # this one would claim that everything before it is durable.
            error = self._lost.pop(entry.owner)
            entry.error = error if isinstance(error, E_STORAGE) else storage_error(error)
            return
        with Savepoint(self._driver, entry):
            entry.result = entry.operation(self._connection)
        if entry.future is None and entry.error is not None:
            self._lost.setdefault(entry.owner, entry.error)
            logger.warning("a write of process %s is lost: %s", entry.owner, entry.error)

    def _undo(self, error: BaseException, lost: dict[int | None, BaseException]) -> None:
        with contextlib.suppress(sqlite3.Error):  # the next BEGIN tells
            if self._driver.in_transaction:
                self._driver.execute("ROLLBACK")
        self._lost = lost
        self.failure = storage_error(error)
        deliver(self._failure_watchers)
        self._failure_watchers.clear()

    def _is_durable_all_the_same(self) -> bool:
        """Whether the transaction that failed is in the file; if not, answer who does not wait."""
        with contextlib.suppress(sqlite3.Error):
            if self._resolve_doubt():
                return True
        if not self._is_held_up():
            self._drop(lambda entry: entry.future is not None)
        return False

    def _resolve_doubt(self) -> bool:
        """Look whether the COMMIT that failed was durable; its operations are then done."""
        batch = self._in_doubt
        if batch is None:
            return False
        found = self._driver.execute(FIND_NUMBER).fetchone()
        self._in_doubt = None
        if found != (self._number,):
            return False
        self._finish(batch)
        return True

    def _finish(self, batch: list[Entry]) -> None:
        """The batch, the head of what is pending, is durable."""
        del self._pending[: len(batch)]
        self._in_doubt = None
        self.failure = None
        deliver(batch)
        self._log.grew()

    def _drop(self, is_given_up: Callable[[Entry], bool]) -> None:
        """Take entries out of what the disk holds up and tell who waits for them."""
        if self.failure is None or self._in_doubt is not None:
            return  # of what may have been done nobody can say that it was not
        given_up = [entry for entry in self._pending if is_given_up(entry)]
        self._pending = [entry for entry in self._pending if not is_given_up(entry)]
        self._reject(given_up, self.failure)

    def _reject(self, entries: list[Entry], error: E_STORAGE) -> None:
        for entry in entries:
            entry.error = E_STORAGE(error.message, retry_after_seconds=error.retry_after_seconds)
        deliver(entries)

    def _reject_rest(self) -> None:
        with self._lock:
            self._closed = True
        rest = self._pending + self._failure_watchers
        with contextlib.suppress(queue.Empty):
            while True:
                item = self._queue.get_nowait()
                if isinstance(item, Entry):
                    rest.append(item)
        self._reject(rest, self.failure or E_STORAGE("the store is closed"))
