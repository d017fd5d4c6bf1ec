"""The write-ahead log: when it is copied back into the database file, and when it is too long.

Copied back about every thousand pages without waiting for readers, emptied when the writer is
idle, and nowhere else: SQLite before 3.51.3 can corrupt a file when two connections do it at
once. See sqlite.org/wal.html.
"""

import logging
import sqlite3
from pathlib import Path
from typing import Literal

CHECKPOINT_BYTES = 1000 * 4096
ALARM_BYTES = 256 << 20
BUSY_TIMEOUT_MS = 5000
logger = logging.getLogger(__name__)


def log_bytes(store: Path) -> int:
    """The size of a store's log; 0 if it has none."""
    try:
        return store.with_name(store.name + "-wal").stat().st_size
    except FileNotFoundError:
        return 0


class WriteAheadLog:
    """The log of the database at `path`, seen from the one connection that copies it back."""

    def __init__(self, driver: sqlite3.Connection, path: Path) -> None:
        self._driver = driver
        self._store = path
        self._bound_bytes = CHECKPOINT_BYTES
        self._is_alarming = False
        self._is_failing = False
        self.is_empty = False

    def grew(self) -> None:
        """Copy back what was committed, if it is enough by now; say so if the log is too long."""
        self.is_empty = False
        size_bytes = self.size_bytes()
        if size_bytes > self._bound_bytes:
            self.copy_back("PASSIVE")
        if size_bytes <= ALARM_BYTES:
            self._is_alarming = False
        elif not self._is_alarming:
            self._is_alarming = True
            logger.warning(
                "the store's log has %d MB and cannot be emptied: something reads one old state"
                " of the store for long, or its disk fails",
                size_bytes >> 20,
            )

    def size_bytes(self) -> int:
        """The log's size on disk."""
        return log_bytes(self._store)

    def copy_back(self, mode: Literal["PASSIVE", "TRUNCATE"]) -> None:
        """Copy the log into the database file, without waiting for readers.

        After a complete copy SQLite fills the log from its start again, so the file grows past
        its present size only when as many pages were written once more: that is the next bound.
        What cannot be copied stays in the log: nothing is lost.
        """
        self._driver.execute("PRAGMA busy_timeout = 0")
        try:
            row = self._driver.execute(f"PRAGMA wal_checkpoint({mode})").fetchone()
            self._is_failing = False
        except sqlite3.Error as error:
            row = (1, 1, 0)
            if not self._is_failing:
                logger.warning("the store's log cannot be copied back: %s", error)
            self._is_failing = True
        self._driver.execute(f"PRAGMA busy_timeout = {BUSY_TIMEOUT_MS}")
        is_busy, num_log_pages, num_copied_pages = row
        self.is_empty = mode == "TRUNCATE" and not is_busy
        rest = 0 if num_log_pages == num_copied_pages else CHECKPOINT_BYTES
        self._bound_bytes = max(CHECKPOINT_BYTES, self.size_bytes() + rest)
