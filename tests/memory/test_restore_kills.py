"""`kill -9` at each thing that a restore or a backup does to files: the old one or the new one.

A child kills itself at its Nth audited event: opening, renaming, removing a file, connecting to a
database, or a statement that changes one.
"""

import itertools
import os
import shutil
import subprocess
import sys
from pathlib import Path

import anyio
import pytest

from llmos.memory import processes
from llmos.memory.backup import back_up
from llmos.memory.db import Database

from .example import make_example
from .test_backup import add_one

SOURCES = Path(__file__).parents[2] / "src"
KILLER = """
import itertools, os, signal, sys
from pathlib import Path
from llmos.memory.backup import back_up, restore
from llmos.memory.db import writer_engine

writer_engine(Path("unused"))  # what it imports is no event
EVENTS = {"open", "os.rename", "os.remove", "os.chmod", "shutil.copyfile", "sqlite3.connect"}
work, store, other, folders = sys.argv[1:]

def work_and_die(folder, last):
    events = itertools.count()

    def look(event, args):
        if event in EVENTS and next(events) == last:
            os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(look)
    {"back_up": back_up, "restore": restore}[work](folder / store, folder / other)
    os._exit(0)

for last in itertools.count():
    folder = Path(folders) / str(last)
    if not folder.exists():
        raise SystemExit("more kills than folders")
    child = os.fork() or work_and_die(folder, last)
    if not os.WIFSIGNALED(os.waitpid(child, 0)[1]):
        break
    print(folder)
"""
MAX_KILLS = 100


def kill_at_each_event(work: str, origin: Path, folders: Path) -> list[Path]:
    """Copies of a folder with `store` and `other`, each left by a child killed one event later."""
    for number in range(MAX_KILLS):
        shutil.copytree(origin, folders / str(number))
    printed = subprocess.check_output(
        [sys.executable, "-c", KILLER, work, "store", "other", str(folders)],
        env={**os.environ, "PYTHONPATH": str(SOURCES)},
        text=True,
    )
    return [Path(line) for line in printed.splitlines()]


@pytest.fixture
def origin(tmp_path: Path) -> Path:
    """A folder with a backup of three processes, `other`, and a store of four that was killed."""
    folder = tmp_path / "origin"
    folder.mkdir()
    anyio.run(make_example, folder / "store")
    back_up(folder / "store", folder / "other")
    for end, content in add_one(folder / "store").items():
        folder.joinpath("store" + end).write_bytes(content)
    return folder


def count_processes(path: Path) -> int:
    """How many processes a store has."""

    async def count() -> int:
        db = Database.open(path)
        try:
            return len(await processes.list(db))
        finally:
            await db.aclose()

    return anyio.run(count)


def test_a_killed_restore_leaves_the_old_store_or_the_new_one(origin: Path, tmp_path: Path) -> None:
    killed = kill_at_each_event("restore", origin, tmp_path / "folders")

    counts = [count_processes(folder / "store") for folder in killed]

    assert len(counts) > 15
    assert [count for count, _ in itertools.groupby(counts)] == [4, 3]


def test_a_killed_backup_leaves_the_old_file_or_the_new_one(origin: Path, tmp_path: Path) -> None:
    killed = kill_at_each_event("back_up", origin, tmp_path / "folders")

    counts = [count_processes(folder / "other") for folder in killed]

    assert len(counts) > 5
    assert [count for count, _ in itertools.groupby(counts)] == [3, 4]
    assert {count_processes(folder / "store") for folder in killed} == {4}


def test_a_restore_works_after_one_that_was_killed(origin: Path, tmp_path: Path) -> None:
    killed = kill_at_each_event("restore", origin, tmp_path / "folders")

    subprocess.run(
        [sys.executable, "-c", "from llmos.memory.backup import *; from pathlib import Path;"
         "restore(Path('store'), Path('other'))"],
        cwd=killed[len(killed) // 2],
        env={**os.environ, "PYTHONPATH": str(SOURCES)},
        check=True,
    )  # fmt: skip

    assert count_processes(killed[len(killed) // 2] / "store") == 3
