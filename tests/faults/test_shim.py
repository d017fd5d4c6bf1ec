"""The library between a program and its disk: its log is what was done, its faults are as armed."""

import subprocess
import sys
from pathlib import Path

import pytest

from .disk import Disk, Kind, read_log
from .shim import build, environment, why_not

pytestmark = pytest.mark.skipif(why_not() is not None, reason=why_not() or "")
BEGIN = """
import os, sys
from pathlib import Path
from tests.faults.shim import Shim

folder = Path(sys.argv[1])
home = folder / "home"
home.mkdir()
shim = Shim()
shim.watch(home, folder / "log")

def attempt(call, *arguments):
    try:
        print(call(*arguments))
    except OSError as error:
        print(error.strerror)

def show(fd):
    print(os.pread(fd, 100, 0).decode())

fd = os.open(home / "a", os.O_CREAT | os.O_RDWR)
"""


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("shim"))


def play(library: Path, folder: Path, program: str) -> list[str]:
    """What a program says that has the library under it."""
    done = subprocess.run(
        [sys.executable, "-c", BEGIN + program, str(folder)],
        env=environment(library),
        stdout=subprocess.PIPE,
        check=True,
        text=True,
    )
    return done.stdout.splitlines()


EVERYTHING = """
os.write(fd, b"one")
os.pwrite(fd, b"two", 10)
os.fsync(fd)
shim.mark(7)
os.ftruncate(fd, 11)
(folder / "elsewhere").write_text("not watched")
os.fdatasync(fd)
os.rename(home / "a", home / "b")
os.close(os.open(home / "c", os.O_CREAT | os.O_RDWR))
(home / "x-shm").write_text("no power cut leaves it")
os.fsync(os.open(home, os.O_RDONLY))
os.unlink(home / "c")
shim.close()
os.write(fd, b"too late")
"""


def test_the_log_holds_what_was_done_in_order(library: Path, tmp_path: Path) -> None:
    play(library, tmp_path, EVERYTHING)

    log = read_log(tmp_path / "log")
    done = [(each.kind.name, each.offset, each.data) for each in log]
    assert done == [
        ("CREATE", 0, b"a"),
        ("WRITE", 0, b"one"),
        ("WRITE", 10, b"two"),
        ("SYNC", 0, b""),
        ("MARK", 7, b""),
        ("TRUNCATE", 11, b""),
        ("SYNC", 0, b""),
        ("RENAME", 0, b"a/b"),
        ("CREATE", 0, b"c"),
        ("SYNC_FOLDER", 0, b""),
        ("UNLINK", 0, b"c"),
    ]
    assert [each.file for each in log if each.kind is Kind.WRITE] == [1, 1]


def test_the_log_makes_the_files(library: Path, tmp_path: Path) -> None:
    play(library, tmp_path, EVERYTHING.replace('os.write(fd, b"too late")', ""))

    disk = Disk()
    for operation in read_log(tmp_path / "log"):
        disk.apply(operation)

    assert disk.seen() == {"b": (tmp_path / "home" / "b").read_bytes()}
    assert disk.last_mark == 7


@pytest.mark.parametrize(
    ("fault", "reason"),
    [("no space", "No space left on device"), ("I/O error", "Input/output error")],
)
def test_the_call_that_was_named_fails_and_no_other(
    library: Path, tmp_path: Path, fault: str, reason: str
) -> None:
    program = f"""
shim.arm({fault!r}, 2, False)
for text in (b"one", b"two", b"three"):
    attempt(os.write, fd, text)
show(fd)
print(shim.num_failed, shim.counts())
"""
    assert play(library, tmp_path, program) == ["3", reason, "5", "onethree", "1 (4, 3, 0)"]


def test_a_sticky_fault_stays_until_it_is_mended(library: Path, tmp_path: Path) -> None:
    program = """
shim.arm("I/O error", 1, True)
attempt(os.write, fd, b"one")
attempt(os.ftruncate, fd, 0)
attempt(os.fsync, fd)
attempt(os.open, home / "b", os.O_CREAT | os.O_RDWR)
attempt(os.unlink, home / "a")
attempt(os.rename, home / "a", home / "b")
shim.heal()
attempt(os.write, fd, b"two")
"""
    assert play(library, tmp_path, program) == ["Input/output error"] * 6 + ["3"]


def test_a_short_write_is_followed_by_a_full_disk(library: Path, tmp_path: Path) -> None:
    program = """
shim.arm("short write", 1, False)
for text in (b"1234", b"5678", b"9"):
    attempt(os.write, fd, text)
show(fd)
"""
    assert play(library, tmp_path, program) == ["2", "No space left on device", "1", "129"]


LOST = """
os.write(fd, b"old and kept")
os.fsync(fd)
shim.arm({fault!r}, 1, False)
os.pwrite(fd, b"new", 0)
os.pwrite(fd, b"more", 20)
os.ftruncate(fd, 5)
attempt(os.fsync, fd)
show(fd)
attempt(os.fsync, fd)
"""


@pytest.mark.parametrize(
    ("fault", "seen"), [("sync reverts", "old and kept"), ("sync forgets", "new a")]
)
def test_a_sync_that_fails_loses_its_pages(
    library: Path, tmp_path: Path, fault: str, seen: str
) -> None:
    said = play(library, tmp_path, LOST.format(fault=fault))

    disk = Disk()
    for operation in read_log(tmp_path / "log"):
        disk.apply(operation)
    assert said == ["Input/output error", seen, "None"]
    assert disk.seen() == {"a": seen.encode()}
    assert disk.durable() == {}, "the name was never synced"
