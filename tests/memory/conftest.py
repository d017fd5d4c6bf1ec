"""Fixtures of the store's tests: a database file of the test's own."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from llmos.memory.db import Database


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
async def db(tmp_path: Path) -> AsyncIterator[Database]:
    database = Database.open(tmp_path / "memory.db")
    yield database
    await database.aclose()
