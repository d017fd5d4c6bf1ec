"""The disk's tier: kept over a restart, bounded, and never in the way."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from llmos.kernel.executor.disk import DiskTier
from llmos.kernel.executor.pagebytes import Buffer
from llmos.kernel.executor.pagefile import find_page_files, find_path

PAGE_BYTES = 4096
FILE_BYTES = PAGE_BYTES + 56
NAMES = [bytes([number]) * 16 for number in range(8)]


def make_page(number: int) -> Buffer:
    return np.full(PAGE_BYTES, number, np.uint8)


def open_tier(folder: Path, *, max_pages: int = 100, fingerprint: str = "a model") -> DiskTier:
    return DiskTier(
        folder,
        fingerprint=fingerprint,
        page_bytes=PAGE_BYTES,
        make_buffer=lambda: make_page(0),
        max_bytes=max_pages * FILE_BYTES,
    )


def settle(disk: DiskTier) -> None:
    """Let the thread do all it has to, and take that in; its index is the folder afterwards."""
    assert disk.drain()
    disk.collect()
    assert disk.drain()
    disk.check_integrity()


def write(disk: DiskTier, *numbers: int) -> None:
    for number in numbers:
        disk.write(NAMES[number], make_page(number))
    settle(disk)


def read(disk: DiskTier, number: int) -> Buffer | None:
    disk.read(NAMES[number])
    assert disk.drain()
    (outcome,) = disk.collect()
    settle(disk)
    return outcome.buffer


def list_files(folder: Path) -> set[bytes]:
    return {name for name, _ in find_page_files(folder)}


def test_a_page_is_there_for_the_next_process(tmp_path: Path) -> None:
    first = open_tier(tmp_path / "pages")
    write(first, 1, 2)
    first.close()

    second = open_tier(tmp_path / "pages")
    page = read(second, 2)

    assert page is not None
    assert np.array_equal(page, make_page(2))
    assert second.num_pages == 2
    assert (tmp_path / "pages").stat().st_mode & 0o777 == 0o700
    second.close()


def test_a_folder_that_others_may_read_is_made_private(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)

    open_tier(tmp_path).close()

    assert tmp_path.stat().st_mode & 0o777 == 0o700


def test_a_page_on_its_way_is_not_read_from_a_file_that_is_not_there(tmp_path: Path) -> None:
    disk = open_tier(tmp_path)
    page = make_page(1)

    disk.write(NAMES[1], page)

    assert NAMES[1] in disk
    assert disk.get_unwritten(NAMES[1]) is page
    settle(disk)
    assert disk.get_unwritten(NAMES[1]) is None
    disk.close()


def test_the_page_used_longest_ago_makes_room(tmp_path: Path) -> None:
    disk = open_tier(tmp_path, max_pages=3)
    write(disk, 0, 1, 2)

    read(disk, 0)
    write(disk, 3)

    assert list_files(tmp_path) == {NAMES[0], NAMES[2], NAMES[3]}
    disk.close()


def test_pages_whose_owner_is_gone_make_room_first(tmp_path: Path) -> None:
    disk = open_tier(tmp_path, max_pages=3)
    write(disk, 0, 1, 2)

    disk.forget([NAMES[2], NAMES[7]])
    write(disk, 3)

    assert list_files(tmp_path) == {NAMES[0], NAMES[1], NAMES[3]}
    disk.close()


def test_a_folder_over_its_bound_is_cut_when_it_is_opened(tmp_path: Path) -> None:
    disk = open_tier(tmp_path)
    write(disk, 0, 1, 2, 3)
    disk.close()

    smaller = open_tier(tmp_path, max_pages=2)
    settle(smaller)

    assert list_files(tmp_path) == {NAMES[2], NAMES[3]}
    smaller.close()


@pytest.mark.parametrize("damage", ["cut", "flipped", "gone"])
def test_a_bad_file_is_removed_and_its_page_forgotten(tmp_path: Path, damage: str) -> None:
    disk = open_tier(tmp_path)
    write(disk, 1)
    path = find_path(tmp_path, NAMES[1])
    if damage == "cut":
        os.truncate(path, 100)
    elif damage == "flipped":
        path.write_bytes(path.read_bytes()[:-1] + b"x")
    else:
        path.unlink()

    assert read(disk, 1) is None

    assert (disk.num_pages, disk.num_bytes, list_files(tmp_path)) == (0, 0, set())
    assert disk.is_writable
    disk.close()


def test_another_models_page_is_not_taken(tmp_path: Path) -> None:
    disk = open_tier(tmp_path)
    write(disk, 1)
    disk.close()

    other = open_tier(tmp_path, fingerprint="another model")

    assert read(other, 1) is None
    assert list_files(tmp_path) == set()
    other.close()


def test_a_folder_that_went_away_switches_writing_off_with_one_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    disk = open_tier(tmp_path / "pages")
    (tmp_path / "pages").rmdir()

    write(disk, 1, 2)

    assert not disk.has_room
    assert len([one for one in caplog.records if "no more pages" in one.getMessage()]) == 1
    disk.close()


def test_without_memory_for_a_page_it_is_not_read_and_stays_where_it_is(tmp_path: Path) -> None:
    sizes = [PAGE_BYTES, 1 << 60, PAGE_BYTES]
    disk = DiskTier(
        tmp_path,
        fingerprint="a model",
        page_bytes=PAGE_BYTES,
        make_buffer=lambda: np.zeros(sizes.pop(), np.uint8),
        max_bytes=10 * FILE_BYTES,
    )
    write(disk, 1)

    pages = [read(disk, 1) for _ in range(3)]

    assert [page is None for page in pages] == [False, True, False]
    disk.close()


def test_a_bound_below_one_page_writes_nothing(tmp_path: Path) -> None:
    disk = open_tier(tmp_path, max_pages=0)

    assert not disk.has_room
    disk.close()


def test_a_file_that_may_not_grow_is_left_out_and_the_rest_goes_on(tmp_path: Path) -> None:
    script = f"""
import resource, sys
from tests.kernel.executor.test_disk import *
disk = open_tier(Path(sys.argv[1]))
write(disk, 1)
resource.setrlimit(resource.RLIMIT_FSIZE, ({FILE_BYTES // 2}, {FILE_BYTES // 2}))
write(disk, 2)
assert not disk.has_room
assert read(disk, 1) is not None
disk.close()
"""
    python = [sys.executable, "-c", script, str(tmp_path)]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    ended = subprocess.run(python, env=env, capture_output=True, text=True, timeout=100)

    assert ended.returncode == 0, ended.stderr
    assert ended.stderr.count("no more pages are written") == 1
    assert {path.suffix for path in tmp_path.iterdir()} == {".page"}
    assert list_files(tmp_path) == {NAMES[1]}
