"""What the store's tests share: a database file of the test's own, and a full disk."""

import resource
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from llmos.memory.db import Connection, Database, Operation

BIG = "x" * 1_000_000


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
async def db(tmp_path: Path) -> AsyncIterator[Database]:
    database = Database.open(tmp_path / "memory.db")
    yield database
    await database.aclose()


def put(number: int, text: str) -> Operation:
    return lambda connection: connection.exec_driver_sql(
        "INSERT INTO output(pid, offset_chars, num_chars, text) VALUES (?, 0, 1, ?)", (number, text)
    )


def kept(connection: Connection) -> list[int]:
    return list(connection.exec_driver_sql("SELECT pid FROM output ORDER BY pid").scalars())


@contextmanager
def no_room(max_bytes: int = 800_000) -> Iterator[None]:
    """No file may pass this size: the system refuses the write, at COMMIT."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (max_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
