"""`kill -9` at each statement of each step: the file is a whole store of one version or the next.

Each child opens a copy of the same store and kills itself when SQLite begins statement N.
"""

import os
import shutil
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from llmos.memory import processes
from llmos.memory.backup import check_store
from llmos.memory.db import Database
from llmos.memory.journal import load, read_output
from llmos.memory.migrations import (
    STEPS,
    keep_large_bodies_apart,
    prove_contexts_and_notes,
    prove_processes,
)
from llmos.memory.recall import recall

from .old_stores import LARGE, OLDEST, make_old_store

pytestmark = pytest.mark.anyio

SOURCES = Path(__file__).parents[2] / "src"
KILLER = """
import itertools, os, shutil, signal, sys
from pathlib import Path
from sqlalchemy import Engine, event
from llmos.memory.db import Database

def open_and_die(path, last):
    statements = itertools.count()

    def look(statement):
        if next(statements) == last:
            os.kill(os.getpid(), signal.SIGKILL)

    @event.listens_for(Engine, "connect")
    def watch(driver, record):
        driver.set_trace_callback(look)

    Database.open(path)
    os._exit(0)

old = Path(sys.argv[1])
for last in itertools.count():
    path = old.with_name(f"killed-{last}")
    if old.exists():
        shutil.copyfile(old, path)
    child = os.fork() or open_and_die(path, last)
    if not os.WIFSIGNALED(os.waitpid(child, 0)[1]):
        break
    print(path)
"""
MARKS = {
    STEPS.index(keep_large_bodies_apart) + 1: (
        "SELECT count(*) FROM pragma_table_info('journal') WHERE name = 'blob'"
    ),
    STEPS.index(prove_processes) + 1: "SELECT count(*) FROM sqlite_master WHERE name = 'extent'",
    STEPS.index(prove_contexts_and_notes) + 1: (
        "SELECT count(*) FROM pragma_table_info('context') WHERE name = 'num_messages'"
    ),
}


def kill_at_each_statement(old: Path) -> list[Path]:
    """The files that children left which were killed one statement later each."""
    printed = subprocess.check_output(
        [sys.executable, "-c", KILLER, str(old)],
        env={**os.environ, "PYTHONPATH": str(SOURCES)},
        text=True,
    )
    return [Path(line) for line in printed.splitlines()]


def look_at(path: Path) -> tuple[int, set[int], str]:
    """A file's version, the steps of which it has something, and what SQLite says of it."""
    with closing(sqlite3.connect(path)) as driver:
        (version,) = driver.execute("PRAGMA user_version").fetchone()
        steps = {step for step, mark in MARKS.items() if driver.execute(mark).fetchone()[0]}
        (verdict,) = driver.execute("PRAGMA integrity_check").fetchone()
    return version, steps, verdict


async def read_values(path: Path) -> list[Any]:
    """All that was in the old store, by the readers of today."""
    db = Database.open(path)
    found: list[Any] = [await processes.list(db)]
    for pid in (1, 2):
        found += [await load(db, pid), await read_output(db, pid)]
        found.append([note.text for note in await recall(db, "t", [f"space {pid}"], "cats", 9)])
    await db.aclose()
    return found


async def test_a_kill_at_any_statement_leaves_a_whole_store_of_some_version(
    tmp_path: Path,
) -> None:
    old = tmp_path / "old.db"
    make_old_store(old)
    shutil.copyfile(old, tmp_path / "undisturbed")
    wanted = await read_values(tmp_path / "undisturbed")

    killed = kill_at_each_statement(old)
    versions = set()
    for path in killed:
        version, steps, verdict = look_at(path)
        versions.add(version)
        assert (verdict, steps) == ("ok", {step for step in MARKS if step <= version}), path
        assert await read_values(path) == wanted, path

    assert len(killed) > 30
    assert versions == set(range(OLDEST, len(STEPS)))


async def test_a_kill_while_a_store_is_made_leaves_nothing_or_a_store(tmp_path: Path) -> None:
    killed = kill_at_each_statement(tmp_path / "new.db")

    for path in killed:
        await Database.open(path).aclose()
        assert check_store(path)[0] == []

    assert len(killed) > 60


@pytest.mark.parametrize("version", range(OLDEST, len(STEPS)))
async def test_what_an_old_store_holds_is_read_as_it_was(tmp_path: Path, version: int) -> None:
    make_old_store(tmp_path / "old.db", version)

    listed, calls, output, notes, *_ = await read_values(tmp_path / "old.db")

    assert [record.exit_status for record in listed] == ["exited", "exited"]
    assert [row.result for row in calls][2] == LARGE
    assert (output, notes) == ("héllo world", ["note 1 about cats"])
    assert check_store(tmp_path / "old.db")[0] == []


async def test_what_was_damaged_in_an_old_store_is_damaged_in_the_new_one(tmp_path: Path) -> None:
    make_old_store(tmp_path / "old.db")
    with closing(sqlite3.connect(tmp_path / "old.db")) as driver, driver:
        driver.execute("UPDATE journal SET result = X'00' WHERE pid = 1 AND seq = 1")
        driver.execute("UPDATE item SET body = 'other' WHERE id = 2")

    await Database.open(tmp_path / "old.db").aclose()

    found = {damage.found for damage in check_store(tmp_path / "old.db")[0]}
    assert {"the journal's call 1/0/1 is damaged", "note uid 2 is damaged"} <= found


async def test_a_step_that_is_taken_again_takes_no_damage_for_true(tmp_path: Path) -> None:
    """A version number that lost a bit."""
    make_old_store(tmp_path / "old.db", len(STEPS))
    with closing(sqlite3.connect(tmp_path / "old.db")) as driver, driver:
        driver.execute("UPDATE output SET text = 'other' WHERE pid = 1")
        driver.execute("UPDATE process SET app = 'other' WHERE pid = 2")
        driver.execute(f"PRAGMA user_version = {OLDEST}")

    await Database.open(tmp_path / "old.db").aclose()

    whose = {(damage.what, damage.pid) for damage in check_store(tmp_path / "old.db")[0]}
    assert whose == {("output", 1), ("process", 2)}
