"""Backup and restore: a whole store as one file, and a file as the store.

A backup is a copy of one moment, made while others write, checked before it takes its name: it
never replaces a good one by a bad one. A restored file is checked the same way, and what it
replaces is kept beside it. Each ends with one rename, so a crash leaves the old file or the new
one, whole. See sqlite.org/backup.html.
"""

import os
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from itertools import count
from pathlib import Path

from sqlalchemy import Connection

from llmos.syscalls.errors import E_ARG, E_STORAGE

from .check import Counts, Damage, check
from .db import writer_engine
from .driver import open_read_only
from .entry import STORE_ERRORS, storage_error
from .migrations import has_tables, migrate, require_ours

LOG, SHARED_MEMORY = "-wal", "-shm"
JOURNALS = ("-journal", LOG, SHARED_MEMORY)


def back_up(store: Path, target: Path) -> Counts:
    """Write a copy of the store to `target`, mode 0600; what is in it.

    Whoever runs on the store goes on. E_STORAGE when the store is damaged or something cannot be
    read or written, E_ARG when the target cannot be one; then an older target is untouched.
    """
    require_other_file(store, target)
    with copied(store, target) as copy:
        with opened(copy, store) as connection:
            counts = require_whole(connection, store)
        install(copy, target)
    return counts


def restore(store: Path, source: Path) -> Path | None:
    """Make `source` the store; where the one that it replaces is kept, None if there was none.

    Nothing else may use the store: the caller holds its lock. E_STORAGE when the source is no
    store, newer, damaged, or cannot be read; then nothing has changed.
    """
    require_other_file(store, source)
    with copied(source, store) as copy:
        with opened(copy, source) as connection:
            require_whole(connection, source)
        kept = keep_old(store) if store.exists() else None
        install(copy, store)
    return kept


def check_store(store: Path) -> tuple[list[Damage], Counts]:
    """All damage of a store, whoever runs on it, and how much was looked at.

    It looks at a copy, which takes as much room again. E_STORAGE when there is no store, or
    nothing of it can be read.
    """
    counts = Counts()
    with copied(store, store) as copy, opened(copy, store) as connection:
        return list(check(connection, counts)), counts


def require_other_file(store: Path, other: Path) -> None:
    """E_ARG if somebody takes the store itself for a backup."""
    if other.is_dir():
        raise E_ARG(f"{other} is a folder; fix: name a file in it", field="file")
    if other.exists() and not other.is_file():
        raise E_ARG(f"{other} is no plain file; fix: name another one", field="file")
    if store.exists() and other.exists() and store.samefile(other):
        raise E_ARG(f"{other} is the store itself; fix: name another file", field="file")


@contextmanager
def copied(source: Path, beside: Path) -> Iterator[Path]:
    """A copy of the source as it is at one moment, as long as the context lasts or until renamed.

    One snapshot is copied in one step: whoever writes meanwhile is neither disturbed nor seen.
    """
    copy = beside.with_name(f".{beside.name}.{os.getpid()}.part")
    if not source.is_file():
        raise E_STORAGE(f"there is no file {source}")
    try:
        remove(copy)
        os.close(os.open(copy, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))
        copy_pages(source, copy)
        yield copy
    except OSError as error:
        fix = "fix: name a file in a folder of your own, and make room on its disk"
        raise E_STORAGE(
            f"nothing can be written beside {beside}: {error.strerror}; {fix}"
        ) from error
    finally:
        remove(copy)


def copy_pages(source: Path, copy: Path) -> None:
    """Copy all pages, and make of them one file that needs no log beside it."""
    try:
        with closing(open_read_only(source)) as origin, closing(sqlite3.connect(copy)) as target:
            target.execute("PRAGMA synchronous = OFF")  # it is synced once, when it is whole
            origin.backup(target)
            target.execute("PRAGMA journal_mode = DELETE")
    except STORE_ERRORS as error:
        raise E_STORAGE(f"cannot copy {source}: {storage_error(error).message}") from error


@contextmanager
def opened(copy: Path, origin: Path) -> Iterator[Connection]:
    """A connection to a copy, brought to this version. E_STORAGE unless the origin is a store."""
    connection = None
    try:
        connection = writer_engine(copy).connect()
        bring_up(connection, origin)
        yield connection
    except STORE_ERRORS as error:
        raise E_STORAGE(f"cannot use {origin}: {storage_error(error).message}") from error
    finally:
        if connection is not None:
            connection.close()


def bring_up(connection: Connection, origin: Path) -> None:
    """Bring a copy to this version. E_STORAGE unless it is a store of it or of an older one."""
    try:
        require_ours(connection)
    except E_STORAGE as error:
        raise E_STORAGE(f"cannot use {origin}: {error.message}") from error
    if not has_tables(connection):
        raise E_STORAGE(f"there is nothing in {origin}; fix: name a backup")
    migrate(connection)


def require_whole(connection: Connection, origin: Path) -> Counts:
    """What a copy holds. E_STORAGE naming its origin and the first damage, if there is any."""
    counts = Counts()
    damage = next(check(connection, counts), None)
    if damage is not None:
        raise E_STORAGE(f"{origin} is damaged: {damage.found}; nothing was written")
    return counts


def install(copy: Path, target: Path) -> None:
    """Make a copy durable under its name: from one moment to the next."""
    sync(copy)
    copy.replace(target)
    sync(target.parent)


def keep_old(store: Path) -> Path:
    """Copy a store that is to be replaced to a name of its own, and leave no log beside it.

    The log of the old store would be taken for the new one's. It is copied back first; what is so
    damaged that this fails is kept with its log.
    """
    empty_log(store)
    kept = find_free_name(store)
    for end in (LOG, ""):
        if store.with_name(store.name + end).exists():
            duplicate(store.with_name(store.name + end), kept.with_name(kept.name + end))
    for end in JOURNALS:
        store.with_name(store.name + end).unlink(missing_ok=True)
    return kept


def duplicate(source: Path, target: Path) -> None:
    """Copy a file byte for byte, to be its owner's alone."""
    part = target.with_name(f".{target.name}.part")
    try:
        shutil.copyfile(source, part)
        part.chmod(0o600)
        install(part, target)
    finally:
        part.unlink(missing_ok=True)


def find_free_name(store: Path) -> Path:
    """A name beside the store that nothing has."""
    names = (store.with_name(f"{store.name}.replaced-{number}") for number in count(1))
    return next(name for name in names if not name.exists())


def empty_log(store: Path) -> None:
    """Copy a store's log back into its file. E_STORAGE while somebody reads it."""
    is_busy = 0
    try:
        with closing(sqlite3.connect(store, isolation_level=None)) as driver:
            driver.execute("PRAGMA synchronous = FULL")
            is_busy, *_ = driver.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
    except STORE_ERRORS as error:
        if storage_error(error).retry_after_seconds is not None:
            raise E_STORAGE(f"cannot replace {store}: {storage_error(error).message}") from error
    if is_busy:
        raise E_STORAGE(f"cannot replace {store}: something reads it; fix: end that program")


def remove(copy: Path) -> None:
    """Remove a copy and what SQLite may have left beside it."""
    for end in ("", *JOURNALS):
        copy.with_name(copy.name + end).unlink(missing_ok=True)


def sync(path: Path) -> None:
    """Return when a file, or a folder's list of files, is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
