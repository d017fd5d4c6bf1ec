"""Writes down what the store does to its disk while it takes steps: a program, under the shim.

`python -m tests.faults.recording FOLDER FIRST_SEED NUMBER SYNCHRONOUS` leaves FOLDER/SEED.log and
the files of the store, FOLDER/SEED/, for each of NUMBER seeds. The marks in a log are numbers of
steps that were acknowledged.
"""

import random
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import anyio

from llmos.memory import wal, writer
from llmos.memory.db import (
    Connection,
    Database,
    claim_file,
    prepare,
    reader_engine,
    sync_folder,
    writer_engine,
)
from llmos.memory.migrations import APPLICATION_ID, STEPS

from .shim import Shim
from .workload import NUM_PLAIN, Step, make_steps

NUM_STEPS = 60
NUM_SESSIONS = 3
IDLE_SECONDS = 0.002
CHECKPOINT_BYTES = 16 * 4096
MAX_GROUP = 5
LONG_READERS, PAUSES, TOGETHER = 0.3, 0.15, 0.5  # of sessions, and of groups of steps


def open_store(path: Path, synchronous: str) -> Database:
    """The store, or one whose writer waits less for the disk."""
    if synchronous == "FULL":
        return Database.open(path)
    claim_file(path)
    connection = writer_engine(path).connect()
    prepare(connection)
    connection.exec_driver_sql(f"PRAGMA synchronous = {synchronous}")
    return Database(path, connection)


def make_old_store(path: Path, steps: list[Step]) -> None:
    """A store as a llmos wrote it that knew the first migration alone, there whole at once."""
    part = path.with_name("old.part")
    connection = writer_engine(part).connect()
    connection.exec_driver_sql("PRAGMA journal_mode = WAL")
    connection.exec_driver_sql("PRAGMA synchronous = FULL")
    connection.exec_driver_sql("BEGIN IMMEDIATE")
    STEPS[0](connection)
    connection.exec_driver_sql(f"PRAGMA application_id = {APPLICATION_ID}")
    connection.exec_driver_sql("PRAGMA user_version = 1")
    for step in steps:
        step(connection)
    connection.exec_driver_sql("COMMIT")
    connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)")
    connection.close()
    part.rename(path)
    sync_folder(path.parent)


class Recording:
    """The store of one seed while it is recorded."""

    def __init__(self, shim: Shim, path: Path, seed: int) -> None:
        self._shim = shim
        self._path = path
        self._rng = random.Random(seed)
        self._steps = make_steps(seed, NUM_STEPS)
        self._num_taken = 0

    def begin_old(self) -> None:
        """Take the first steps in a store that then needs migrations."""
        make_old_store(self._path, self._steps[:NUM_PLAIN])
        self._acknowledge(NUM_PLAIN)
        self._num_taken = NUM_PLAIN

    async def play(self, synchronous: str) -> None:
        """Take all steps that are left, in sessions that open and close the store."""
        ends = sorted(self._rng.sample(range(self._num_taken, NUM_STEPS), NUM_SESSIONS - 1))
        for end in (*ends, NUM_STEPS):
            db = open_store(self._path, synchronous)
            with long_reader(self._path, self._rng.random() < LONG_READERS):
                await self._take_until(db, (self._num_taken + end) // 2)
            await self._take_until(db, end)
            await db.aclose()

    async def _take_until(self, db: Database, end: int) -> None:
        while self._num_taken < end:
            first = self._num_taken
            self._num_taken = min(end, first + self._rng.randint(1, MAX_GROUP))
            group = range(first + 1, self._num_taken + 1)
            if self._rng.random() < TOGETHER:
                async with anyio.create_task_group() as tasks:
                    for number in group:
                        tasks.start_soon(self._take, db, number)
            else:
                for number in group[:-1]:
                    db.write_nowait(self._steps[number - 1])
                await self._take(db, group[-1])
            if self._rng.random() < PAUSES:
                await anyio.sleep(2 * IDLE_SECONDS)  # the writer empties its log

    async def _take(self, db: Database, number: int) -> None:
        await db.write(self._steps[number - 1])
        self._acknowledge(number)

    def _acknowledge(self, number: int) -> None:
        self._shim.mark(number)


@contextmanager
def long_reader(path: Path, is_there: bool) -> Iterator[None]:
    """Somebody who looks at one old state of the store all the time."""
    if not is_there:
        yield
        return
    engine = reader_engine(path)
    with engine.connect() as connection:
        look(connection)
        yield
    engine.dispose()


def look(connection: Connection) -> None:
    """Begin a transaction that sees the store as it is now."""
    connection.exec_driver_sql("SELECT count(*) FROM output").scalar_one()


async def record(shim: Shim, folder: Path, seed: int, synchronous: str) -> None:
    """One seed."""
    home = folder / str(seed)
    home.mkdir()
    shim.watch(home, home.with_suffix(".log"))
    recording = Recording(shim, home / "memory.db", seed)
    if seed % 2:
        recording.begin_old()
    await recording.play(synchronous)
    shim.close()


async def main(folder: Path, first_seed: int, number: int, synchronous: str) -> None:
    """All seeds. The log is copied back often, so that it is seen often."""
    wal.CHECKPOINT_BYTES = CHECKPOINT_BYTES
    writer.IDLE_SECONDS = IDLE_SECONDS
    shim = Shim()
    for seed in range(first_seed, first_seed + number):
        await record(shim, folder, seed, synchronous)


if __name__ == "__main__":
    anyio.run(main, Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), sys.argv[4])
