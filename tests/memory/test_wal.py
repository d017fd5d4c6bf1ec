"""The write-ahead log: copied back by the writer alone, and an alarm when it cannot be."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import anyio
import pytest

from llmos.memory import wal
from llmos.memory.db import Connection, Database, reader_engine

pytestmark = pytest.mark.anyio
MB = 1 << 20


def fill(connection: Connection) -> None:
    connection.exec_driver_sql(
        "INSERT INTO output(pid, offset_chars, num_chars, text)"
        " VALUES (1, (SELECT count(*) FROM output), 1, ?)",
        ("x" * 400_000,),
    )


def count(connection: Connection) -> int:
    return int(connection.exec_driver_sql("SELECT count(*) FROM output").scalar_one())


def log_of(db: Database) -> Path:
    return db.path.with_name("memory.db-wal")


@contextmanager
def long_reader(db: Database) -> Iterator[None]:
    """Somebody who looks at one old state of the store all the time."""
    engine = reader_engine(db.path)
    with engine.connect() as connection:
        count(connection)
        yield
    engine.dispose()


async def test_neither_reading_nor_closing_a_reader_copies_the_log_back(db: Database) -> None:
    await db.write(fill)
    size_bytes = db.path.stat().st_size

    engine = reader_engine(db.path)
    with engine.connect() as connection:
        assert connection.exec_driver_sql("PRAGMA wal_autocheckpoint").scalar_one() == 0
    engine.dispose()

    assert db.path.stat().st_size == size_bytes
    assert log_of(db).stat().st_size > 400_000


async def test_a_log_that_a_reader_held_is_copied_back_when_it_is_gone(db: Database) -> None:
    with long_reader(db):
        for _ in range(30):
            await db.write(fill)
        assert log_of(db).stat().st_size > 10 * MB

    with anyio.fail_after(10):
        while log_of(db).stat().st_size > 0:
            await db.read(count)
    assert db.path.stat().st_size > 10 * MB


async def test_a_log_that_grows_too_long_is_named_once(
    db: Database, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wal, "ALARM_BYTES", 8 * MB)

    with long_reader(db), caplog.at_level(logging.WARNING):
        for _ in range(30):
            await db.write(fill)

    (record,) = caplog.records
    assert "the store's log has 8 MB and cannot be emptied" in record.message


async def test_a_log_that_is_copied_back_in_time_rings_no_alarm(
    db: Database, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The control: as much is written, and nobody holds the log."""
    monkeypatch.setattr(wal, "ALARM_BYTES", 8 * MB)

    with caplog.at_level(logging.WARNING):
        for _ in range(30):
            await db.write(fill)

    assert not caplog.records


def test_the_alarm_is_at_256_megabytes() -> None:
    assert wal.ALARM_BYTES == 256 * MB
