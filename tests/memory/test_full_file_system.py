"""A file system that is really full: a small one of the test's own, in memory."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

SOURCES = Path(__file__).parents[2] / "src"
MOUNT = ["unshare", "--map-root-user", "--mount", "sh", "-c"]
STORE = """
import sys, anyio
from pathlib import Path
from llmos.memory.db import Database

folder = Path(sys.argv[1])

def put(number):
    return lambda connection: connection.exec_driver_sql(
        "INSERT INTO output(pid, offset_chars, num_chars, text) VALUES (?, 0, 1, ?)",
        (number, "x" * 50_000))

def kept(connection):
    return list(connection.exec_driver_sql("SELECT pid FROM output ORDER BY pid").scalars())

def fill(filler):
    try:
        with filler.open("wb", buffering=0) as file:
            while True:
                file.write(bytes(4096))
    except OSError as error:
        print(error.strerror)

async def main():
    db = Database.open(folder / "memory.db")
    await db.write(put(1))
    fill(folder / "filler")
    async with anyio.create_task_group() as tasks:
        with db.held():
            for number in range(2, 10):
                tasks.start_soon(db.write, put(number))
            await db.wait_failure()
            await db.retry()
            print(db.failure, await db.read(kept))
            (folder / "filler").unlink()
            while db.failure is not None:
                await db.retry()
    print(await db.read(kept))
    await db.aclose()

anyio.run(main)
"""

OPENED_TWICE = """
import sys, anyio
from pathlib import Path
from llmos.memory.db import Database
from llmos.syscalls.errors import E_STORAGE

folder = Path(sys.argv[1])
anyio.run(Database.open(folder / "memory.db").aclose)
try:
    (folder / "filler").write_bytes(bytes(2 << 20))
except OSError as error:
    print(error.strerror)
try:
    Database.open(folder / "memory.db")
except E_STORAGE as error:
    print(error.message.rpartition("; fix: ")[2])
"""


def in_small_file_system(folder: Path, command: str, *arguments: str) -> "list[str] | None":
    """What a shell command says where `folder` has 1 MB; None if none may be mounted here."""
    script = f'mount -t tmpfs -o size=1m none "$0" && {command}'
    try:
        done = subprocess.run(
            [*MOUNT, script, str(folder), *arguments],
            env=os.environ | {"PYTHONPATH": str(SOURCES)},
            stdout=subprocess.PIPE,
            timeout=60,
        )
    except FileNotFoundError:
        return None
    return done.stdout.decode().splitlines() if done.returncode == 0 else None


@pytest.mark.skipif(sys.platform != "linux", reason="mounts as Linux does")
def test_what_waits_on_a_full_file_system_is_written_when_there_is_room(tmp_path: Path) -> None:
    if in_small_file_system(tmp_path, "true") is None:
        pytest.skip("no file system may be mounted here")

    said = in_small_file_system(tmp_path, '"$1" -c "$2" "$0"', sys.executable, STORE)

    assert said == [
        "No space left on device",
        "E_STORAGE: the store failed: database or disk is full [1]",
        str(list(range(1, 10))),
    ]


@pytest.mark.skipif(sys.platform != "linux", reason="mounts as Linux does")
def test_a_store_on_a_full_file_system_asks_for_room_when_it_is_opened(tmp_path: Path) -> None:
    if in_small_file_system(tmp_path, "true") is None:
        pytest.skip("no file system may be mounted here")

    said = in_small_file_system(tmp_path, '"$1" -c "$2" "$0"', sys.executable, OPENED_TWICE)

    assert said == ["No space left on device", "make room on the disk, or mend it"]
