"""`llmos db`: backup, restore and check as a person sees them."""

import json
from pathlib import Path

import anyio
import pytest

from tests.memory.example import edit, make_example

from .conftest import Llmos


@pytest.fixture
def home(llmos: Llmos) -> Path:
    """A state directory with three processes in its store."""
    llmos.home.mkdir(mode=0o700)
    anyio.run(make_example, llmos.home / "llmos.db")
    return llmos.home


def test_a_store_that_is_sound_is_called_so(llmos: Llmos, home: Path) -> None:
    ran = llmos.run("db", "check")

    assert (ran.returncode, ran.stdout) == (0, "")
    assert "all sound: 3 processes, 27 calls, 3 contexts, 6 notes" in ran.stderr


def test_damage_is_a_table_with_fixes_and_exit_code_3(llmos: Llmos, home: Path) -> None:
    edit(home / "llmos.db", "UPDATE journal SET result = X'00' WHERE pid = 2 AND seq = 4")

    ran = llmos.run("db", "check")

    header, row = ran.stdout.splitlines()
    assert ran.returncode == 3
    assert header.split() == ["DAMAGED", "PID", "WHAT", "IS", "WRONG", "FIX"]
    assert row.split()[:2] == ["journal", "2"]
    assert "call 2/0/4 is damaged" in row
    assert "llmos db restore FILE" in row


def test_programs_get_damage_as_json(llmos: Llmos, home: Path) -> None:
    edit(home / "llmos.db", "DELETE FROM message WHERE context_id = 3")

    found = json.loads(llmos.run("db", "check", "--json").stdout)

    (damage,) = found["damages"]
    assert (damage["what"], damage["pid"]) == ("context", 3)
    assert (found["num_processes"], found["num_calls"]) == (3, 27)


def test_a_backup_made_and_restored_says_so(llmos: Llmos, home: Path) -> None:
    made = llmos.run("db", "backup", "copy.db")
    restored = llmos.run("db", "restore", "copy.db", "--json")

    assert (made.returncode, restored.returncode) == (0, 0)
    assert "copy.db has 3 processes" in made.stderr
    assert json.loads(restored.stdout) == {
        "file": "copy.db",
        "kept": str(home / "llmos.db.replaced-1"),
    }


def test_a_damaged_backup_is_refused_in_two_lines(llmos: Llmos, home: Path) -> None:
    (llmos.work / "copy.db").write_text("no database " * 1000)

    ran = llmos.run("db", "restore", "copy.db")

    what, fix = ran.stderr.splitlines()
    assert ran.returncode == 3
    assert what.startswith("llmos: cannot copy copy.db: the store failed: file is not a database")
    assert fix.startswith("fix: ")


def test_a_kernel_that_runs_is_backed_up_and_not_replaced(llmos: Llmos) -> None:
    llmos.environ["LLMOS_MODEL"] = "echo"
    assert llmos.run("start").returncode == 0
    try:
        llmos.run("run", "ask", "hello")
        made = llmos.run("db", "backup", "copy.db", "--json")
        checked = llmos.run("db", "check")
        restored = llmos.run("db", "restore", "copy.db")
    finally:
        llmos.run("stop")

    assert json.loads(made.stdout)["num_processes"] == 1
    assert (checked.returncode, restored.returncode) == (0, 3)
    assert "another kernel runs on" in restored.stderr
    assert "fix: llmos stop" in restored.stderr
    assert llmos.run("db", "restore", "copy.db").returncode == 0


@pytest.mark.parametrize("words", [["backup"], ["restore"], ["check", "x"], ["nothing"]])
def test_words_that_make_no_sense_are_usage_errors(llmos: Llmos, words: list[str]) -> None:
    assert llmos.run("db", *words).returncode == 2


def test_a_backup_of_nothing_is_refused(llmos: Llmos) -> None:
    ran = llmos.run("db", "backup", "copy.db")

    assert ran.returncode == 3
    assert "there is no file" in ran.stderr
