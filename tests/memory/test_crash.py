"""kill -9 of a writing process loses nothing that it had acknowledged."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from llmos.memory.db import Database

pytestmark = pytest.mark.anyio

SOURCES = Path(__file__).parents[2] / "src"

STORE = """
import sys, anyio
from pathlib import Path
from llmos.memory.db import Database

def insert(number):
    return lambda connection: connection.exec_driver_sql(
        "INSERT INTO output(pid, offset_chars, num_chars, text) VALUES (?, 0, 1, 'x')", (number,))

async def caller(db, first):
    for number in range(first, 1_000_000, 8):
        await db.write(insert(number))
        print(number, flush=True)

async def main():
    db = Database.open(Path(sys.argv[1]))
    async with anyio.create_task_group() as tasks:
        for first in range(8):
            tasks.start_soon(caller, db, first)

anyio.run(main)
"""

ACKNOWLEDGES_BEFORE_COMMIT = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1])
insert = "INSERT INTO output(pid, offset_chars, num_chars, text) VALUES (?, 0, 1, 'x')"
for number in range(1_000_000):
    connection.execute(insert, (number,))
    print(number, flush=True)
connection.commit()
"""


async def num_lost(program: str, path: Path) -> int:
    """Kill the program after some hundred acknowledgements; how many of them are not there."""
    await Database.open(path).aclose()
    acknowledged = run_and_kill(program, path, num_lines=450)
    db = Database.open(path)
    found = await db.read(
        lambda c: set(c.exec_driver_sql("SELECT pid FROM output").scalars().all())
    )
    await db.aclose()
    return len(acknowledged - found)


def run_and_kill(program: str, path: Path, num_lines: int) -> set[int]:
    """What the program printed until, and after, `kill -9` reached it."""
    with subprocess.Popen(
        [sys.executable, "-c", program, str(path)],
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(SOURCES)},
        text=True,
    ) as child:
        assert child.stdout is not None
        lines = [child.stdout.readline() for _ in range(num_lines)]
        child.send_signal(signal.SIGKILL)
        lines += child.stdout.readlines()
    return {int(line) for line in lines if line.endswith("\n")}


async def test_the_store_loses_nothing_that_it_acknowledged(tmp_path: Path) -> None:
    assert await num_lost(STORE, tmp_path / "memory.db") == 0


async def test_the_check_finds_a_store_that_acknowledges_too_early(tmp_path: Path) -> None:
    assert await num_lost(ACKNOWLEDGES_BEFORE_COMMIT, tmp_path / "memory.db") > 0
