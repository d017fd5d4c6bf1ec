"""One SQLite file: a writer with group commit, and readers that cannot write.

Write-ahead log with `synchronous=FULL`: what `write` acknowledged survives a power cut. Opened
after the zygote was forked, never before: a SQLite connection must not cross a fork.
"""

import asyncio
import errno
import os
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import TypeVar, cast

import anyio
import anyio.to_thread
from sqlalchemy import URL, Connection, Engine, NullPool, create_engine, event

from llmos.syscalls.errors import E_STORAGE

from .entry import STORE_ERRORS, Entry, Operation, result_code, storage_error
from .filesystem import require_local
from .migrations import migrate, require_ours
from .wal import BUSY_TIMEOUT_MS
from .writer import Writer

__all__ = ["Connection", "Database", "Operation"]

T = TypeVar("T")
MAX_READERS = 4
SQLITE_VERSION = sqlite3.sqlite_version_info

COMMON_PRAGMAS = (
    f"busy_timeout = {BUSY_TIMEOUT_MS}",
    "trusted_schema = OFF",
    "cell_size_check = ON",
    "mmap_size = 0",
)
READER_PRAGMAS = (*COMMON_PRAGMAS, "query_only = ON", "wal_autocheckpoint = 0")
WRITER_PRAGMAS = (
    "synchronous = FULL",
    "fullfsync = ON",  # macOS: fsync alone leaves data in the drive's cache
    "checkpoint_fullfsync = ON",
    "foreign_keys = ON",
    "recursive_triggers = ON",
    "wal_autocheckpoint = 0",
)
FIXES = {
    sqlite3.SQLITE_BUSY: "end the program that uses it",
    sqlite3.SQLITE_CANTOPEN: "make it and its folder writable",
    sqlite3.SQLITE_READONLY: "make it and its folder writable",
    sqlite3.SQLITE_FULL: "make room on the disk",
    sqlite3.SQLITE_IOERR: "make room on the disk, or mend it",
}


class Database:
    """The store's file. Made by `open`; all other methods belong to one event loop at a time."""

    def __init__(self, path: Path, connection: Connection) -> None:
        self.path = path
        self._connection = connection
        self._readers = reader_engine(path)
        self._limiter = anyio.CapacityLimiter(MAX_READERS)
        self._writer = Writer(connection, path)
        self._closed = False
        self._writer.start()

    @classmethod
    def open(cls, path: Path) -> "Database":
        """Open `path`, creating it (mode 0600) or bringing it to this version's schema.

        E_STORAGE, one line with what to do, for a file that cannot be read or written, is not
        a store, or comes from a newer version.
        """
        require_local(path)
        connection = None
        try:
            claim_file(path)
            connection = writer_engine(path).connect()
            prepare(connection)
            sync_folder(path.parent)
        except STORE_ERRORS as error:
            close(connection)
            fix = FIXES.get(result_code(error), "restore a backup of it")
            reason = storage_error(error).message
            raise E_STORAGE(f"cannot open {path}: {reason}; fix: {fix}") from error
        except OSError as error:
            close(connection)
            raise system_error(path, error) from error
        except E_STORAGE as error:
            close(connection)
            raise E_STORAGE(f"cannot open {path}: {error.message}") from error
        return cls(path, connection)

    @property
    def failure(self) -> E_STORAGE | None:
        """Why the last commit failed; None when it did not. Nothing acknowledged is lost.

        Its `retry_after_seconds` is None when the failure will not pass by itself.
        """
        return self._writer.failure

    async def write(
        self,
        operation: Callable[[Connection], T],
        *,
        owner: int | None = None,
        keep: bool = False,
    ) -> T:
        """Run `operation` in the writer's transaction, once; returns when it is durable.

        An error that it raises undoes it alone and comes back to this caller. E_STORAGE when the
        disk failed: then nothing of it was done. While the store is held, a caller waits instead,
        until `retry` succeeds or it is given up (`give_up`, unless `keep`; `give_up_owned`).
        It must not commit or roll back, and it runs in the writer's thread, again if the disk
        undid it. A cancelled caller does not stop it.
        """
        entry = Entry(operation, make_future(), owner=owner, keep=keep)
        self._writer.put(entry)
        return cast("T", await wait(entry))

    def write_nowait(self, operation: Operation, *, owner: int | None = None) -> None:
        """Queue `operation` for the writer; the owner's next acknowledged write proves it durable.

        It is never given up: when the disk fails it is done as soon as that works again. If it
        raises, the next write or flush of its owner does, and nobody else's.
        """
        self._writer.put(Entry(operation, None, owner=owner))

    async def flush(self, *, owner: int | None = None, keep: bool = False) -> None:
        """Return when all that was queued so far is durable. Waits and fails as `write` does."""
        await self.write(nothing, owner=owner, keep=keep)

    # -- when the disk fails: somebody decides how long callers wait

    @contextmanager
    def held(self) -> Iterator[None]:
        """While the context lasts, callers wait when the disk fails, and `retry` must be called."""
        self._writer.hold()
        try:
            yield
        finally:
            with suppress(E_STORAGE):  # closed: it holds nobody
                self._writer.put(self._writer.release)

    async def wait_failure(self) -> None:
        """Return when the disk fails, or at once if it does."""
        watcher = Entry(nothing, make_future())
        self._writer.put(partial(self._writer.watch, watcher))
        await wait(watcher)

    async def retry(self) -> None:
        """Try the disk again; afterwards `failure` says whether it works."""
        done = Entry(nothing, make_future())
        self._writer.put(partial(self._writer.retry, done))
        await wait(done)

    def give_up(self) -> None:
        """While the disk fails, let who waits for what need not be kept hear E_STORAGE now."""
        self._writer.put(self._writer.drop_unkept)

    def give_up_owned(self, owner: int) -> None:
        """While the disk fails, undo what this owner waits for; it hears E_STORAGE now."""
        self._writer.put(partial(self._writer.drop_owned, owner))

    async def read(self, query: Callable[[Connection], T]) -> T:
        """Run `query` in a worker thread on one snapshot that holds all acknowledged writes.

        It must return plain values, not open results. E_STORAGE when the file cannot be read.
        """
        return await anyio.to_thread.run_sync(self._read, query, limiter=self._limiter)

    def _read(self, query: Callable[[Connection], T]) -> T:
        if self._closed:
            raise E_STORAGE("the store is closed")
        try:
            with self._readers.begin() as connection, Discard(connection):
                return query(connection)
        except STORE_ERRORS as error:
            raise storage_error(error) from error

    async def aclose(self) -> None:
        """Make all durable, empty the write-ahead log, close. A second call does nothing.

        E_STORAGE when something queued could not be made durable; the file is closed all the same.
        """
        if self._closed:
            return
        self._closed = True
        last = Entry(nothing, make_future())
        self._writer.put(last)
        with anyio.CancelScope(shield=True):
            await anyio.to_thread.run_sync(self._shut)
            await wait(last)

    def _shut(self) -> None:
        self._readers.dispose()
        self._writer.stop()
        close(self._connection)


class Discard:
    """Gives a reader's connection up when its query fails.

    A statement that was left half way stays open as long as the error that was raised is kept, and
    as long as it is open the connection sees the state of that moment.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def __enter__(self) -> None:
        pass

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is not None:
            self._connection.invalidate()


def nothing(connection: Connection) -> None:
    """The operation that is only waited for."""


def make_future() -> "asyncio.Future[object]":
    """A future of the running loop."""
    return asyncio.get_running_loop().create_future()


async def wait(entry: Entry) -> object:
    """What came of an entry. It must have a future."""
    assert entry.future is not None
    return await entry.future


def claim_file(path: Path) -> None:
    """Make sure that `path` is a file and its owner's alone; a new one is a whole store at once.

    So an empty file is one that lost what it held, and never the beginning of a store. The file is
    never opened once SQLite has it: closing any descriptor of it would drop the locks that SQLite
    holds on it.
    """
    if not path.exists():
        make_file(path)
    elif path.is_file() and path.stat().st_size == 0:
        raise E_STORAGE("it is empty, and no store is; fix: llmos db restore FILE, or remove it")
    path.chmod(0o600)


def make_file(path: Path) -> None:
    """Make a store under another name, and give it its own when it is whole."""
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    remove_all(part)
    os.close(os.open(part, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))
    try:
        with writer_engine(part).connect() as connection:
            prepare(connection)
            # The log has to be in the file before that is renamed, and closing tells no failure.
            connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)")
        part.rename(path)
    finally:
        remove_all(part)


def remove_all(path: Path) -> None:
    """Remove a database and the files that SQLite keeps beside it."""
    for end in ("", "-journal", "-wal", "-shm"):
        path.with_name(path.name + end).unlink(missing_ok=True)


def system_error(path: Path, error: OSError) -> E_STORAGE:
    """Why the system does not give us the file, and what to do."""
    is_disk = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EIO)
    fix = FIXES[sqlite3.SQLITE_IOERR] if is_disk else "name a folder that exists and is yours"
    return E_STORAGE(f"cannot open {path}: {error.strerror}; fix: {fix}")


def sync_folder(folder: Path) -> None:
    """Make the names in a folder durable: that of the log, and that an older journal is gone.

    SQLite does so too, but does not tell when it fails. A power cut could then take the log away,
    or bring a journal back that undoes everything. Raises OSError.
    """
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno != errno.EINVAL:  # some file systems have no such thing
            raise
    finally:
        os.close(descriptor)


def writer_engine(path: Path) -> Engine:
    """An engine in driver autocommit mode: BEGIN and COMMIT are the writer's own."""
    engine = create_engine(URL.create("sqlite", database=str(path)), poolclass=NullPool)

    @event.listens_for(engine, "connect")
    def set_up(driver: sqlite3.Connection, record: object) -> None:
        driver.isolation_level = None
        run_pragmas(driver, COMMON_PRAGMAS)

    return engine


def reader_engine(path: Path) -> Engine:
    """An engine of `MAX_READERS` connections that refuse to write; each use is one snapshot."""
    engine = create_engine(
        URL.create("sqlite", database=str(path)), pool_size=MAX_READERS, max_overflow=0
    )

    @event.listens_for(engine, "connect")
    def set_up(driver: sqlite3.Connection, record: object) -> None:
        driver.isolation_level = None
        run_pragmas(driver, READER_PRAGMAS)

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        connection.exec_driver_sql("BEGIN")

    return engine


def run_pragmas(driver: sqlite3.Connection, pragmas: tuple[str, ...]) -> None:
    """Set the pragmas on a connection that has just been made."""
    for pragma in pragmas:
        driver.execute(f"PRAGMA {pragma}")


def prepare(connection: Connection) -> None:
    """Refuse what is not ours before anything is written; then log mode, pragmas, migrations."""
    require_ours(connection)
    mode = connection.exec_driver_sql("PRAGMA journal_mode = WAL").scalar_one()
    if mode != "wal":
        raise E_STORAGE("its file system has no shared memory; keep it on a local disk")
    for pragma in WRITER_PRAGMAS:
        connection.exec_driver_sql(f"PRAGMA {pragma}")
    migrate(connection)


def close(connection: Connection | None) -> None:
    """Close the writer's connection and with it the driver's."""
    if connection is not None:
        connection.close()
