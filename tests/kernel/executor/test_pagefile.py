"""Page files: what is written is read, and nothing else is."""

import os
import stat
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from llmos.kernel.executor.pagebytes import Buffer
from llmos.kernel.executor.pagefile import (
    BadPage,
    find_page_files,
    find_path,
    make_tag,
    read_page_file,
    write_page_file,
)

TAG = make_tag("a model")
NAME, OTHER = bytes(range(16)), bytes(16)
PAGE = np.arange(256, dtype=np.uint8)


def read(folder: Path, *, tag: bytes = TAG, name: bytes = NAME, num_bytes: int = 256) -> Buffer:
    buffer = np.zeros(num_bytes, np.uint8)
    read_page_file(folder, tag, name, buffer)
    return buffer


def flip_a_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-7] ^= 1
    path.write_bytes(content)


def test_what_is_written_is_read_and_private(tmp_path: Path) -> None:
    write_page_file(tmp_path, TAG, NAME, PAGE)

    assert np.array_equal(read(tmp_path), PAGE)
    assert find_page_files(tmp_path) == [(NAME, find_path(tmp_path, NAME).stat().st_size)]
    assert stat.S_IMODE(find_path(tmp_path, NAME).stat().st_mode) == 0o600


@pytest.mark.parametrize(
    "damage",
    [
        flip_a_bit,
        lambda path: os.truncate(path, 300),
        lambda path: os.truncate(path, 20),
        lambda path: os.truncate(path, 0),
        lambda path: path.write_bytes(path.read_bytes() + b"more"),
        lambda path: path.write_bytes(b"somebody else's file" * 40),
    ],
)
def test_a_damaged_file_is_refused(tmp_path: Path, damage: Callable[[Path], None]) -> None:
    write_page_file(tmp_path, TAG, NAME, PAGE)

    damage(find_path(tmp_path, NAME))

    with pytest.raises(BadPage):
        read(tmp_path)


def test_another_models_and_another_pages_file_are_refused(tmp_path: Path) -> None:
    write_page_file(tmp_path, TAG, NAME, PAGE)
    find_path(tmp_path, OTHER).write_bytes(find_path(tmp_path, NAME).read_bytes())

    with pytest.raises(BadPage, match="another"):
        read(tmp_path, tag=make_tag("another model"))
    with pytest.raises(BadPage, match="another"):
        read(tmp_path, name=OTHER)
    with pytest.raises(BadPage, match="length"):
        read(tmp_path, num_bytes=128)


def test_a_link_is_not_followed(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_bytes(b"x" * 400)
    find_path(tmp_path, NAME).symlink_to(secret)

    with pytest.raises(OSError, match="links"):
        read(tmp_path)
    assert find_page_files(tmp_path) == []


def test_files_are_listed_by_last_use_and_halves_removed(tmp_path: Path) -> None:
    for number, name in enumerate((NAME, OTHER)):
        write_page_file(tmp_path, TAG, name, PAGE)
        os.utime(find_path(tmp_path, name), (number, number))
    half, new = tmp_path / f"{NAME.hex()}.1.tmp", tmp_path / f"{OTHER.hex()}.2.tmp"
    half.write_bytes(b"half")
    os.utime(half, (1, 1))
    new.write_bytes(b"somebody is at work on it")
    (tmp_path / "notes.page").write_bytes(b"no name")

    read(tmp_path)

    assert [name for name, _ in find_page_files(tmp_path)] == [OTHER, NAME]
    assert (half.exists(), new.exists()) == (False, True)


def test_a_folder_that_is_away_is_an_error_of_the_system(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        write_page_file(tmp_path / "away", TAG, NAME, PAGE)
