"""`check`: all damage is found, named with whose it is, and nothing else is."""

from pathlib import Path

import anyio
import pytest

from llmos.memory.backup import check_store
from llmos.memory.check import Counts, look_quickly
from llmos.syscalls.errors import E_STORAGE

from .example import edit, make_example
from .test_hand_edits import EDITS


@pytest.fixture
def path(tmp_path: Path) -> Path:
    anyio.run(make_example, tmp_path / "memory.db")
    return tmp_path / "memory.db"


def test_a_sound_store_is_sound_and_left_as_it_is(path: Path) -> None:
    before = path.read_bytes()

    damages, counts = check_store(path)

    assert damages == []
    assert counts == Counts(num_processes=3, num_calls=27, num_contexts=3, num_notes=6)
    assert path.read_bytes() == before


@pytest.mark.parametrize("statement", EDITS)
def test_every_edit_is_found_and_only_its_process_blamed(path: Path, statement: str) -> None:
    edit(path, statement)

    damages, _ = check_store(path)

    assert damages
    others = {1} if statement.startswith(("UPDATE journal SET pid", "UPDATE context")) else set()
    assert {damage.pid for damage in damages} <= {2, None} | others
    assert all(damage.fix and "\n" not in damage.found for damage in damages)


@pytest.mark.parametrize(
    ("statement", "what"),
    [
        ("UPDATE item SET body = 'other' WHERE id = 1", "index"),
        ("UPDATE item SET role = 'system' WHERE id = 1", "note"),
        ("UPDATE space SET tenant = 'u'", "note"),
        ("DELETE FROM item WHERE id = 1", "index"),
        ("DELETE FROM space", "key"),
        ("DELETE FROM sqlite_sequence WHERE name = 'context'", None),
    ],
)
def test_damage_that_is_no_processs_is_named(path: Path, statement: str, what: str | None) -> None:
    edit(path, statement)

    damages, _ = check_store(path)

    assert (what in {damage.what for damage in damages}) == (what is not None)
    assert {damage.pid for damage in damages} <= {None}


def test_damaged_pages_are_found(path: Path) -> None:
    content = bytearray(path.read_bytes())
    for start in range(len(content) // 2 // 4096 * 4096, len(content), 4096):
        content[start : start + 512] = bytes(512)
    path.write_bytes(content)

    damages, _ = check_store(path)

    assert "file" in {damage.what for damage in damages}
    assert "journal" in {damage.what for damage in damages}
    with pytest.raises(E_STORAGE):
        look_quickly(path, 10.0)


def test_a_quick_look_says_whether_it_saw_all(path: Path) -> None:
    assert look_quickly(path, 10.0)
    assert look_quickly(path, -1.0) in (True, False)
    path.write_bytes(b"")
    with pytest.raises(E_STORAGE, match="it is empty"):
        look_quickly(path, 10.0)


def test_a_file_that_is_no_store_cannot_be_checked(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("no database " * 1000)

    with pytest.raises(E_STORAGE, match="not a database"):
        check_store(tmp_path / "text")
    with pytest.raises(E_STORAGE, match="there is no file"):
        check_store(tmp_path / "nothing")
